import asyncio
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.errors import ForbiddenError, NotFoundError, UnauthenticatedError
from services.kit import auth, tokens
from services.kit.auth import Caller, Credentials, Scope, bearer_token, delegate, end_delegations, renew
from services.kit.keys import create_key, list_keys, main, revoke_key
from services.kit.postgres import Database, SyncDatabase
from services.kit.settings import ServiceSettings
from services.local.scratch import DatabaseDsns
from tests.conftest import ApiKey, Serve
from tests.kit.sample import sample

READ = frozenset({Scope.CACHE_READ})
SHORT_S = 0.3


@pytest.fixture
def credentials(database: Database, pepper: str) -> Credentials:
    return Credentials(database, pepper)


async def test_a_key_gives_its_tenant_and_scopes(credentials: Credentials, api_key: ApiKey) -> None:
    caller = await credentials.authenticate(api_key([Scope.CACHE_READ, Scope.TRAIN_RUN], "acme"))
    assert (caller.tenant, caller.scopes, caller.delegated) == ("acme", {Scope.CACHE_READ, Scope.TRAIN_RUN}, False)


async def test_only_a_hash_under_the_pepper_is_stored(database_dsns: DatabaseDsns, api_key: ApiKey, database: Database) -> None:
    key = api_key()
    with psycopg.connect(database_dsns.owner) as connection:
        stored = str(connection.execute("select k::text from auth.api_keys k").fetchall())
    assert key.split("_")[2] not in stored
    with pytest.raises(UnauthenticatedError):
        await Credentials(database, "another pepper of 32 characters!").authenticate(key)


@pytest.mark.parametrize("change", [-1, 0, 5, 20])
async def test_a_mistyped_key_fails_its_checksum(api_key: ApiKey, change: int) -> None:
    key = api_key()
    position = change if change >= 0 else len(key) - 1
    mistyped = key[:position] + ("x" if key[position] != "x" else "y") + key[position + 1 :]
    assert tokens.is_well_formed(key)
    assert not tokens.is_well_formed(mistyped)


async def test_an_unknown_but_well_formed_key_is_refused(credentials: Credentials, api_key: ApiKey) -> None:
    api_key()
    with pytest.raises(UnauthenticatedError):
        await credentials.authenticate(tokens.new_key())


async def test_a_key_ends_at_its_expiry_although_it_is_remembered(credentials: Credentials, api_key: ApiKey) -> None:
    key = api_key(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    await credentials.authenticate(key)
    await asyncio.sleep(1.6)
    with pytest.raises(UnauthenticatedError):
        await credentials.authenticate(key)


async def test_a_revoked_key_is_refused_and_its_delegations_with_it(
    credentials: Credentials, database: Database, database_dsns: DatabaseDsns, api_key: ApiKey
) -> None:
    key = api_key()
    caller = await credentials.authenticate(key)
    token = await delegate(database, caller, scopes=READ, job_id="job_1", lifetime_s=60)
    assert (await credentials.authenticate(token)).job_id == "job_1"

    revoke_key(database_dsns.owner, caller.key_id)
    credentials.forget()

    for credential in (key, token):
        with pytest.raises(UnauthenticatedError):
            await credentials.authenticate(credential)
    assert not await renew(database, token, lifetime_s=60)
    with pytest.raises(ForbiddenError):
        await delegate(database, caller, scopes=READ, job_id="job_1", lifetime_s=60)


async def test_what_is_remembered_is_forgotten_within_seconds(
    credentials: Credentials, database_dsns: DatabaseDsns, api_key: ApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBER_S", SHORT_S)
    key = api_key()
    caller = await credentials.authenticate(key)
    revoke_key(database_dsns.owner, caller.key_id)
    assert await credentials.authenticate(key) == caller
    await asyncio.sleep(SHORT_S)
    with pytest.raises(UnauthenticatedError):
        await credentials.authenticate(key)


async def test_a_delegation_holds_a_subset_of_scopes(credentials: Credentials, database: Database, api_key: ApiKey) -> None:
    caller = await credentials.authenticate(api_key([Scope.CACHE_READ, Scope.ROLLOUT_RUN]))
    with pytest.raises(ForbiddenError):
        await delegate(database, caller, scopes=frozenset({Scope.CACHE_WRITE}), job_id="job_1", lifetime_s=60)

    token = await delegate(database, caller, scopes=frozenset({Scope.CACHE_READ, Scope.ROLLOUT_RUN}), job_id="job_1", lifetime_s=60)
    helper = await credentials.authenticate(token)
    further = await credentials.authenticate(await delegate(database, helper, scopes=READ, job_id="job_1", lifetime_s=60))
    assert (further.tenant, further.scopes, further.key_id, further.delegated) == ("acme", READ, caller.key_id, True)
    with pytest.raises(ForbiddenError):
        await delegate(database, further, scopes=frozenset({Scope.ROLLOUT_RUN}), job_id="job_1", lifetime_s=60)


@pytest.mark.parametrize(
    "forged",
    [
        {"tenant": "other"},
        {"key_id": "key_unknown"},
        {"scopes": frozenset({Scope.ADMIN})},
    ],
)
async def test_a_caller_made_up_from_a_row_cannot_exceed_its_key(
    credentials: Credentials, database: Database, api_key: ApiKey, forged: dict[str, object]
) -> None:
    caller = await credentials.authenticate(api_key([Scope.CACHE_READ]))
    fields = {"tenant": caller.tenant, "scopes": caller.scopes, "key_id": caller.key_id} | forged
    made_up = Caller(**fields)  # type: ignore[arg-type]
    with pytest.raises(ForbiddenError):
        await delegate(database, made_up, scopes=made_up.scopes, job_id="job_1", lifetime_s=60)


async def test_a_delegation_ends_and_can_be_renewed_before(credentials: Credentials, database: Database, api_key: ApiKey) -> None:
    caller = await credentials.authenticate(api_key())
    renewed, ended = [await delegate(database, caller, scopes=READ, job_id=f"job_{n}", lifetime_s=1.0) for n in range(2)]
    assert await renew(database, renewed, lifetime_s=60)
    await asyncio.sleep(1.1)
    assert (await credentials.authenticate(renewed)).delegated
    with pytest.raises(UnauthenticatedError):
        await credentials.authenticate(ended)
    assert not await renew(database, ended, lifetime_s=60)


async def test_the_delegations_of_a_job_end_with_it(credentials: Credentials, database: Database, api_key: ApiKey) -> None:
    caller = await credentials.authenticate(api_key())
    token = await delegate(database, caller, scopes=READ, job_id="job_1", lifetime_s=60)
    other = await delegate(database, caller, scopes=READ, job_id="job_2", lifetime_s=60)
    assert await end_delegations(database, tenant="other", job_id="job_1") == 0
    assert await end_delegations(database, tenant="acme", job_id="job_1") == 1
    with pytest.raises(UnauthenticatedError):
        await credentials.authenticate(token)
    assert await credentials.authenticate(other)


async def test_a_worker_without_an_event_loop_delegates_alike(
    credentials: Credentials, database_dsns: DatabaseDsns, api_key: ApiKey
) -> None:
    caller = await credentials.authenticate(api_key())
    database = SyncDatabase.open(database_dsns.app)
    token = auth.delegate_sync(database, caller, scopes=READ, job_id="job_1", lifetime_s=60)
    assert (await credentials.authenticate(token)).scopes == READ
    assert auth.renew_sync(database, token, lifetime_s=120)
    assert auth.end_delegations_sync(database, tenant="acme", job_id="job_1") == 1
    database.close()


async def test_the_app_cannot_read_keys_or_delegations(database: Database, api_key: ApiKey) -> None:
    api_key()
    for statement in ("select * from auth.api_keys", "select * from auth.delegations"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.tenant("acme") as connection:
                await connection.execute(statement)


async def test_scopes_decide_and_admin_implies_none(sample_settings: ServiceSettings, api_key: ApiKey, serve: Serve) -> None:
    client = await serve(sample(sample_settings))
    answers = {}
    for scope in Scope:
        headers = {"Authorization": f"bearer {api_key([scope])}"}
        answers[scope] = (await client.get("/v1/notes", headers=headers)).status_code
    assert answers == {scope: 200 if scope is Scope.CACHE_READ else 403 for scope in Scope}


async def test_no_credential_is_401_with_a_challenge(sample_settings: ServiceSettings, serve: Serve) -> None:
    answer = await (await serve(sample(sample_settings))).get("/v1/notes")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["type"] == "urn:cacherl:problem:unauthenticated"


async def test_two_authorization_headers_are_none(sample_settings: ServiceSettings, api_key: ApiKey, serve: Serve) -> None:
    client = await serve(sample(sample_settings))
    headers = [("Authorization", f"Bearer {api_key()}"), ("Authorization", f"Bearer {api_key()}")]
    assert (await client.get("/v1/notes", headers=headers)).status_code == 401


@given(header=st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")) | st.text(max_size=80).map("Bearer {}".format))
def test_no_header_text_raises(header: str) -> None:
    token = bearer_token([header])
    assert token is None or not tokens.is_well_formed(token)


HOSTILE = [
    *(b"Bearer", b"Bearer ", b"Bearer  ", b"bearer\tx", b"Basic YTpi", b"Bearer crl_", b"Bearer crl__", b"Bearer crd_" + b"x" * 49),
    *(b"\xff\xfe", b"Bearer \xc3\xa9", b"Bearer " + b"a" * 6000, b"Bearer ' or 1=1 --", b"Bearer crl_0123456789_" + b"A" * 49),
    *(b"Bearer %00", b",", b"Bearer a b", b"Bearer \x00", b"Bearer \x7f", b"Bearer a\rb"),
]


async def test_no_header_gives_anything_but_a_refusal(sample_settings: ServiceSettings, serve: Serve) -> None:
    client = await serve(sample(sample_settings))
    for header in HOSTILE:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /v1/notes HTTP/1.1\r\nHost: x\r\nAuthorization: " + header + b"\r\nConnection: close\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        # A header that is not HTTP at all is the server's 400.
        assert status == 401 or (status == 400 and any(byte in header for byte in b"\x00\x7f\r")), header
        writer.close()
        await writer.wait_closed()


def test_the_command_makes_lists_and_revokes_keys(
    database_dsns: DatabaseDsns,
    pepper: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    owner_file = tmp_path_factory.mktemp("secret") / "owner"
    owner_file.write_text(database_dsns.owner + "\n")
    monkeypatch.setenv("CACHERL_OWNER_DATABASE_URL_FILE", str(owner_file))
    monkeypatch.setenv("CACHERL_PEPPER", pepper)
    main(["create", "--tenant", "acme", "--scopes", "cache:read,train:run", "--expires-in-days", "1"])
    key = capsys.readouterr().out.strip()
    assert tokens.is_well_formed(key)
    main(["list"])
    listed = capsys.readouterr().out
    assert "key_" + tokens.prefix(key) in listed
    assert key not in listed
    main(["revoke", "key_" + tokens.prefix(key)])
    assert list_keys(database_dsns.owner)[0][6] != "infinity"
    with pytest.raises(NotFoundError):
        revoke_key(database_dsns.owner, "key_none")


async def test_a_remembered_key_costs_no_query(credentials: Credentials, database: Database, api_key: ApiKey) -> None:
    key = api_key()
    await credentials.authenticate(key)
    await database.close()
    started = time.perf_counter()
    assert (await credentials.authenticate(key)).tenant == "acme"
    assert time.perf_counter() - started < 0.05


def test_a_short_pepper_is_refused(database_dsns: DatabaseDsns) -> None:
    with pytest.raises(Exception, match="32 characters"):
        create_key(database_dsns.owner, "short", tenant="t", scopes=[Scope.CACHE_READ])
