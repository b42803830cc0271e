import asyncio

import httpx2
import psycopg
import pytest

from services.kit.postgres import Database
from services.kit.settings import ServiceSettings
from services.local.scratch import DatabaseDsns
from tests.conftest import ApiKey, Serve
from tests.kit.sample import sample


@pytest.fixture
async def client(sample_settings: ServiceSettings, api_key: ApiKey, serve: Serve) -> httpx2.AsyncClient:
    return await serve(sample(sample_settings), api_key())


async def notes(client: httpx2.AsyncClient) -> list[str]:
    return (await client.get("/v1/notes")).json()["items"]


async def test_fifty_identical_posts_act_once_and_answer_alike(client: httpx2.AsyncClient) -> None:
    posts = [client.post("/v1/notes", json={"text": "hello"}, headers={"Idempotency-Key": "k1"}) for _ in range(50)]
    answers = await asyncio.gather(*posts)

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 49
    assert await notes(client) == ["hello"]


async def test_another_body_under_the_same_key_is_refused(client: httpx2.AsyncClient) -> None:
    await client.post("/v1/notes", json={"text": "one"}, headers={"Idempotency-Key": "k"})
    answer = await client.post("/v1/notes", json={"text": "two"}, headers={"Idempotency-Key": "k"})

    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:cacherl:problem:idempotency-key-reused"
    assert await notes(client) == ["one"]


async def test_without_a_key_each_post_acts(client: httpx2.AsyncClient) -> None:
    for _ in range(2):
        assert (await client.post("/v1/notes", json={"text": "again"})).status_code == 201
    assert await notes(client) == ["again", "again"]


async def test_a_refusal_is_not_stored_and_leaves_no_effect(client: httpx2.AsyncClient) -> None:
    refused = await client.post("/v1/notes", json={"text": "conflict"}, headers={"Idempotency-Key": "k"})
    retried = await client.post("/v1/notes", json={"text": "fine"}, headers={"Idempotency-Key": "k"})

    assert (refused.status_code, retried.status_code) == (409, 201)
    assert await notes(client) == ["fine"]


async def test_keys_of_two_tenants_do_not_meet(sample_settings: ServiceSettings, api_key: ApiKey, serve: Serve) -> None:
    app = sample(sample_settings)
    first = await serve(app, api_key(tenant="a"))
    for key in (api_key(tenant="a"), api_key(tenant="b")):
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "same"}
        assert (await first.post("/v1/notes", json={"text": key[:14]}, headers=headers)).status_code in (201, 422)
    seen = [await notes_of(first, api_key(tenant=tenant)) for tenant in ("a", "b")]
    assert [len(items) for items in seen] == [1, 1]
    assert seen[0] != seen[1]


async def test_answers_are_kept_for_two_days(database: Database, database_dsns: DatabaseDsns) -> None:
    with psycopg.connect(database_dsns.owner) as connection:
        connection.execute(
            "insert into kit.idempotency (tenant, route, key, fingerprint, created_at)"
            " select 'a', 'r', n::text, '', now() - n * interval '1 hour' from generate_series(40, 60) n"
        )
    async with database.system() as connection:
        await connection.execute("select kit.expire()")
    async with database.tenant("a") as connection:
        row = await (await connection.execute("select max(key) as oldest, count(*) as n from kit.idempotency")).fetchone()
    assert row == {"oldest": "47", "n": 8}


async def notes_of(client: httpx2.AsyncClient, key: str) -> list[str]:
    return (await client.get("/v1/notes", headers={"Authorization": f"Bearer {key}"})).json()["items"]


@pytest.mark.parametrize("key", ["", "x" * 256, "new\tline"])
async def test_a_key_that_is_none_is_refused(client: httpx2.AsyncClient, key: str) -> None:
    answer = await client.post("/v1/notes", json={"text": "x"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert await notes(client) == []
