"""Who calls, and what the caller may do.

A route takes its caller as a dependency, and cannot be served without one:

    async def list_caches(caller: Annotated[Caller, Depends(requires(Scope.CACHE_READ))]) -> …

Two credentials exist. An API key (`crl_…`) belongs to a tenant. A delegation (`crd_…`) lets a service act for that
tenant after the caller has gone: fewer scopes, an end, and void as soon as its key is revoked. The key decides the
tenant; no field of a body can. Whatever the Authorization header holds, the answer is a caller or 401: never another
error. `admin` is a scope like the others and implies none.
"""

import time
from dataclasses import dataclass
from enum import StrEnum

from fastapi import Request
from fastapi.security.base import SecurityBase
from fastapi.security.http import HTTPBearer
from psycopg import sql

from cacherl.errors import ForbiddenError, UnauthenticatedError
from services.kit import tokens
from services.kit.postgres import Database, SyncDatabase

REMEMBER_S = 5.0
REMEMBER_AT_MOST = 4096
MAX_LIFETIME_S = 7 * 24 * 3600

FIND_KEY = sql.SQL("select * from auth.find_key(%s)")
FIND_DELEGATION = sql.SQL("select * from auth.find_delegation(%s)")
DELEGATE = sql.SQL("select auth.delegate(%s, %s, %s, %s, %s, make_interval(secs => %s)) as made")
RENEW = sql.SQL("select auth.renew_delegation(%s, make_interval(secs => %s)) as renewed")
END = sql.SQL("select auth.end_delegations(%s, %s) as ended")


class Scope(StrEnum):
    """What a key may do."""

    CACHE_READ = "cache:read"
    """Look up, list, report."""

    CACHE_WRITE = "cache:write"
    """Record, annotate, calibrate, purge: a policy must never hold it."""

    ROLLOUT_RUN = "rollout:run"
    """Run episodes and publish policies to the engine."""

    REWARD_SCORE = "reward:score"
    """Score episodes and compute advantages."""

    TRAIN_RUN = "train:run"
    """Upload datasets and run jobs."""

    ADMIN = "admin"
    """Operate: erase, change configuration."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: decided by the credential alone."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str
    job_id: str | None = None
    delegated: bool = False


class Credentials:
    """Turns tokens into callers.

    A positive answer is remembered for at most `REMEMBER_S` seconds, so a revoked key works at most that much longer.
    """

    def __init__(self, database: Database, pepper: str) -> None:
        if len(pepper) < 32:
            raise ValueError("the pepper needs at least 32 characters")
        self._database = database
        self._pepper = pepper.encode()
        self._remembered: dict[bytes, tuple[float, Caller]] = {}

    async def authenticate(self, token: str | None) -> Caller:
        """The caller behind a token; UnauthenticatedError for none, a malformed, unknown, expired or revoked one."""
        digest = tokens.fingerprint(token) if token is not None and token.isascii() else b""
        remembered = self._remembered.get(digest)
        if remembered is not None and remembered[0] > time.monotonic():
            return remembered[1]
        if token is None or not tokens.is_well_formed(token):
            raise UnauthenticatedError("Send `Authorization: Bearer crl_…` with a valid API key.")
        caller, left_s = await (self._find_key(token) if tokens.is_key(token) else self._find_delegation(digest))
        if len(self._remembered) >= REMEMBER_AT_MOST:
            self._remembered.clear()
        self._remembered[digest] = (time.monotonic() + min(REMEMBER_S, left_s), caller)
        return caller

    def forget(self) -> None:
        """Drops what is remembered: the next look-up asks the database."""
        self._remembered.clear()

    async def _find_key(self, token: str) -> tuple[Caller, float]:
        async with self._database.system() as connection:
            row = await (await connection.execute(FIND_KEY, (tokens.prefix(token),))).fetchone()
        expected = bytes(row["digest"]) if row else bytes(32)
        # An unknown prefix costs the same comparison as a known one.
        if not tokens.matches(token, self._pepper, expected) or row is None:
            raise UnauthenticatedError("The API key is unknown, expired or revoked.")
        return Caller(row["tenant"], known_scopes(row["scopes"]), row["key_id"]), row["left_s"]

    async def _find_delegation(self, digest: bytes) -> tuple[Caller, float]:
        async with self._database.system() as connection:
            row = await (await connection.execute(FIND_DELEGATION, (digest,))).fetchone()
        if row is None:
            raise UnauthenticatedError("The delegation is unknown or has ended.")
        return Caller(row["tenant"], known_scopes(row["scopes"]), row["key_id"], row["job_id"], delegated=True), row["left_s"]


def known_scopes(names: list[str]) -> frozenset[Scope]:
    """The scopes among these names; a name of another version grants nothing."""
    known = {scope.value for scope in Scope}
    return frozenset(Scope(name) for name in names if name in known)


class requires(SecurityBase):
    """The dependency that gives the caller and refuses one without `scope`: 401 without a valid credential, 403 without the scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        bearer = HTTPBearer(description="An API key `crl_…` or a delegation `crd_…`.", auto_error=False)
        self.model = bearer.model
        self.scheme_name = "ApiKey"

    async def __call__(self, request: Request) -> Caller:
        """The caller; also left in `request.state.caller` for the log line."""
        credentials: Credentials = request.app.state.credentials
        caller = await credentials.authenticate(bearer_token(request.headers.getlist("authorization")))
        request.state.caller = caller
        if self.scope not in caller.scopes:
            raise ForbiddenError(f"This needs a key with the scope `{self.scope}`.")
        return caller


def bearer_token(headers: list[str]) -> str | None:
    """The token of a single `Bearer` header; None for no header, several, another scheme or one with stray characters."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(" ")
    token = token.strip(" ")
    return token if scheme.lower() == "bearer" and token.isascii() and token.isprintable() else None


def _delegation(caller: Caller, scopes: frozenset[Scope], lifetime_s: float) -> str:
    if not scopes or not scopes <= caller.scopes:
        raise ForbiddenError("A delegation holds some of its maker's scopes and none besides.")
    _check_lifetime(lifetime_s)
    return tokens.new_delegation()


def _check_lifetime(lifetime_s: float) -> None:
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise ValueError(f"a delegation lives for up to {MAX_LIFETIME_S} seconds, not {lifetime_s}")


async def delegate(database: Database, caller: Caller, *, scopes: frozenset[Scope], job_id: str, lifetime_s: float) -> str:
    """A new token with which a service acts for `caller` on one job.

    Raises ForbiddenError where `scopes` is not a subset of the caller's, or the caller's key is revoked, expired or of another tenant.
    A worker that claims a job builds the `Caller` from the job's row and delegates anew; the database checks it against the key.
    """
    token = _delegation(caller, scopes, lifetime_s)
    async with database.system() as connection:
        row = await (await connection.execute(DELEGATE, _delegation_row(token, caller, scopes, job_id, lifetime_s))).fetchone()
    return _made(token, row)


def delegate_sync(database: SyncDatabase, caller: Caller, *, scopes: frozenset[Scope], job_id: str, lifetime_s: float) -> str:
    """`delegate` for a process without an event loop."""
    token = _delegation(caller, scopes, lifetime_s)
    with database.system() as connection:
        row = connection.execute(DELEGATE, _delegation_row(token, caller, scopes, job_id, lifetime_s)).fetchone()
    return _made(token, row)


def _delegation_row(token: str, caller: Caller, scopes: frozenset[Scope], job_id: str, lifetime_s: float) -> tuple[object, ...]:
    return tokens.fingerprint(token), caller.tenant, sorted(scope.value for scope in scopes), job_id, caller.key_id, lifetime_s


def _made(token: str, row: dict[str, object] | None) -> str:
    if row is None or not row["made"]:
        raise ForbiddenError("The key behind this call is revoked, expired, or lacks a scope.")
    return token


async def renew(database: Database, token: str, *, lifetime_s: float) -> bool:
    """Moves the end of a delegation to `lifetime_s` from now; False where it has ended or its key is revoked.

    The job must be live: that is the caller's to know.
    """
    _check_lifetime(lifetime_s)
    async with database.system() as connection:
        row = await (await connection.execute(RENEW, (tokens.fingerprint(token), lifetime_s))).fetchone()
    return row is not None and bool(row["renewed"])


def renew_sync(database: SyncDatabase, token: str, *, lifetime_s: float) -> bool:
    """`renew` for a process without an event loop."""
    _check_lifetime(lifetime_s)
    with database.system() as connection:
        row = connection.execute(RENEW, (tokens.fingerprint(token), lifetime_s)).fetchone()
    return row is not None and bool(row["renewed"])


async def end_delegations(database: Database, *, tenant: str, job_id: str) -> int:
    """Ends every delegation of a job that is over; how many there were."""
    async with database.system() as connection:
        row = await (await connection.execute(END, (tenant, job_id))).fetchone()
    return int(row["ended"]) if row else 0


def end_delegations_sync(database: SyncDatabase, *, tenant: str, job_id: str) -> int:
    """`end_delegations` for a process without an event loop."""
    with database.system() as connection:
        row = connection.execute(END, (tenant, job_id)).fetchone()
    return int(row["ended"]) if row else 0
