"""API keys, from the command line: `python -m services.kit.keys create --tenant T --scopes cache:read,train:run`.

Only who holds the owner's connection string and the pepper can make a key: there is no HTTP way to one. A key is shown
once and stored as a hash.
"""

import argparse
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql
from pydantic import Field, SecretStr

from cacherl.errors import NotFoundError, UsageError
from services.kit import tokens
from services.kit.auth import Scope
from services.kit.settings import ServiceSettings

CREATE = sql.SQL(
    "insert into auth.api_keys (prefix, tenant, scopes, digest, label, expires_at) "
    "values (%s, %s, %s, %s, %s, coalesce(%s::timestamptz, 'infinity'))"
)
REVOKE = sql.SQL("update auth.api_keys set revoked_at = least(revoked_at, now()) where key_id = %s or prefix = %s")
LIST = sql.SQL(
    "select key_id, tenant, scopes, label, created_at, expires_at::text, revoked_at::text from auth.api_keys order by created_at"
)


class OwnerSettings(ServiceSettings):
    """What the operator's commands need: the owner's connection, and the pepper for making keys."""

    database_url: str = Field(default="", repr=False)
    pepper: SecretStr = SecretStr("")


def owner_dsn() -> str:
    """The owner's connection string from the environment; UsageError where there is none."""
    dsn = OwnerSettings().owner_database_url
    if not dsn:
        raise UsageError("Set CACHERL_OWNER_DATABASE_URL or CACHERL_OWNER_DATABASE_URL_FILE.")
    return dsn


def create_key(
    owner: str, pepper: str, *, tenant: str, scopes: Iterable[Scope], label: str = "", expires_at: datetime | None = None
) -> str:
    """Makes an API key and returns it: the only time it is seen. `owner` is the owner's connection string."""
    if len(pepper) < 32:
        raise UsageError("The pepper needs at least 32 characters (CACHERL_PEPPER or CACHERL_PEPPER_FILE).")
    key = tokens.new_key()
    row = (tokens.prefix(key), tenant, sorted(scope.value for scope in scopes), tokens.digest(key, pepper.encode()), label, expires_at)
    with psycopg.connect(owner) as connection:
        connection.execute(CREATE, row)
    return key


def revoke_key(owner: str, key_id: str) -> None:
    """Revokes a key by its id or prefix, and with it its delegations; in force within seconds. NotFoundError for an unknown one."""
    with psycopg.connect(owner) as connection:
        if connection.execute(REVOKE, (key_id, key_id)).rowcount == 0:
            raise NotFoundError(f"There is no key {key_id}.")


def list_keys(owner: str) -> list[tuple[object, ...]]:
    """Id, tenant, scopes, label and times of every key."""
    with psycopg.connect(owner) as connection:
        return connection.execute(LIST).fetchall()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.kit.keys", description="API keys: create, revoke, list.")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and print it once")
    create.add_argument("--tenant", required=True)
    create.add_argument("--scopes", required=True, help="comma-separated: " + ", ".join(Scope))
    create.add_argument("--label", default="")
    create.add_argument("--expires-in-days", type=float)
    commands.add_parser("revoke", help="revoke a key").add_argument("key_id")
    commands.add_parser("list", help="list the keys")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    if options.command == "revoke":
        revoke_key(owner_dsn(), options.key_id)
    elif options.command == "list":
        sys.stdout.write("".join("\t".join(map(str, row)) + "\n" for row in list_keys(owner_dsn())))
    else:
        try:
            scopes = [Scope(name.strip()) for name in options.scopes.split(",")]
        except ValueError as error:
            raise UsageError(f"{error}; the scopes are {', '.join(Scope)}") from None
        end = datetime.now(UTC) + timedelta(days=options.expires_in_days) if options.expires_in_days is not None else None
        pepper = OwnerSettings().pepper.get_secret_value()
        key = create_key(owner_dsn(), pepper, tenant=options.tenant, scopes=scopes, label=options.label, expires_at=end)
        sys.stdout.write(key + "\n")


if __name__ == "__main__":
    main()
