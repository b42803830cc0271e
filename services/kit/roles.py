"""Roles and databases of a Postgres server: what must exist before the first migration.

    cacherl_owner     owns the database `cacherl`: migrations, and the functions that see every tenant; no superuser
    cacherl_app       the services: no DDL, row-level security forced
    cacherl_indexer   may own a table to build its indexes while row-level security hides the rows from it
    cacherl_jobs      owns the database `jobs` with pgmq in it: Celery's doorbell, no truth

`prepare_server` needs a superuser (or CREATEROLE and CREATEDB) and may run again at any time: it repairs what is
missing and sets the passwords. In a managed Postgres the same roles are declared by other means; nothing else in the
project needs more than the owner.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from pgmq.install import install_pgmq_from_sql
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cacherl.errors import UsageError

OWNER = "cacherl_owner"
APP = "cacherl_app"
INDEXER = "cacherl_indexer"
JOBS = "cacherl_jobs"
ROLES = (OWNER, APP, INDEXER, JOBS)
DATABASE = "cacherl"
JOBS_DATABASE = "jobs"
IDLE_IN_TRANSACTION = "5min"

Session = psycopg.Connection[Any]


def prepare_server(admin_dsn: str, passwords: Mapping[str, str]) -> None:
    """Makes the four roles with these passwords and the two databases; `admin_dsn` may name any database of the server."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for role in ROLES:
            _ensure_role(connection, role, passwords[role])
        # The owner may then hand a table to the indexer and still alter it.
        connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(INDEXER), sql.Identifier(OWNER)))
        connection.execute(
            sql.SQL("alter role {} set idle_in_transaction_session_timeout = {}").format(
                sql.Identifier(APP), sql.Literal(IDLE_IN_TRANSACTION)
            )
        )
        ensure_database(connection, DATABASE, OWNER)
        ensure_database(connection, JOBS_DATABASE, JOBS)
    with psycopg.connect(make_conninfo(admin_dsn, dbname=DATABASE)) as connection:
        # pgvector is not a trusted extension: the owner could not create it.
        connection.execute("create extension if not exists vector")
    install_queue(make_conninfo(admin_dsn, dbname=JOBS_DATABASE))


def _ensure_role(connection: Session, role: str, password: str) -> None:
    identifier = sql.Identifier(role)
    if connection.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone() is None:
        connection.execute(sql.SQL("create role {} login").format(identifier))
    # Hashed here: the server's log never sees the password.
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("alter role {} with login password {}").format(identifier, sql.Literal(verifier)))


def ensure_database(connection: Session, database: str, owner: str, *, template: str | None = None) -> None:
    """Makes a database that only its owner, the app and the indexer may connect to; leaves one that exists as it is."""
    identifier = sql.Identifier(database)
    if connection.execute("select 1 from pg_database where datname = %s", (database,)).fetchone() is None:
        statement = sql.SQL("create database {} owner {}").format(identifier, sql.Identifier(owner))
        connection.execute(statement + sql.SQL(" template {}").format(sql.Identifier(template)) if template else statement)
    connection.execute(sql.SQL("revoke all on database {} from public").format(identifier))
    if owner == OWNER:
        connection.execute(
            sql.SQL("grant connect on database {} to {}, {}").format(identifier, sql.Identifier(APP), sql.Identifier(INDEXER))
        )


def install_queue(dsn: str) -> None:
    """Installs pgmq's SQL as the jobs role, once."""
    with psycopg.connect(dsn) as connection:
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(JOBS)))
        found = connection.execute("select to_regclass('pgmq.meta')").fetchone()
        if found is None or found[0] is None:
            install_pgmq_from_sql(conn=connection)


def _password(role: str) -> str:
    """From the file that CACHERL_PASSWORD_<ROLE>_FILE names, or the variable CACHERL_PASSWORD_<ROLE>."""
    name = f"CACHERL_PASSWORD_{role.removeprefix('cacherl_').upper()}"
    path, value = os.environ.get(f"{name}_FILE"), os.environ.get(name)
    if path:
        return Path(path).read_text(encoding="utf-8").strip()
    if value:
        return value
    raise UsageError(f"Set {name}_FILE or {name}.")


def main() -> None:
    """`python -m services.kit.roles`: with CACHERL_ADMIN_DATABASE_URL and CACHERL_PASSWORD_{OWNER,APP,INDEXER,JOBS}, or …_FILE of each."""
    argparse.ArgumentParser(prog="python -m services.kit.roles", description=main.__doc__).parse_args()
    path, dsn = os.environ.get("CACHERL_ADMIN_DATABASE_URL_FILE"), os.environ.get("CACHERL_ADMIN_DATABASE_URL", "")
    prepare_server(Path(path).read_text(encoding="utf-8").strip() if path else dsn, {role: _password(role) for role in ROLES})
    sys.stdout.write("roles and databases are there\n")


if __name__ == "__main__":
    main()
