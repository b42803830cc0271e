"""Migrations: numbered SQL files, run by alembic.

Each component directory may hold `migrations/0001_name.sql`, `0002_….sql`, …; a file is one revision named after
itself, follows the one before and is never edited after a release. Each component has a schema with alembic's version
table in it; a component's pending files run in one transaction. One migrator works at a time (advisory lock); a
statement that waits long for a table lock fails rather than queue everybody behind it. There is no way down: a mistake
is repaired by the next file. Code accepts a database that is ahead of it, so old and new releases run side by side.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, LiteralString, cast

import psycopg
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script.base import Script
from alembic.script.revision import RevisionMap
from psycopg import sql
from sqlalchemy import Connection, NullPool, create_engine

from cacherl.errors import ConflictError, UsageError
from services.kit.postgres import AsyncRows

SERVICES = Path(__file__).resolve().parent.parent
COMPONENTS = {"kit": "kit", "cache_api": "cache", "rollout": "rollout", "reward": "reward", "trainer": "trainer"}
"""Component directory → schema, in the order of migration."""

FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
VERSION_TABLE = "alembic_version"
MAX_REVISION = 32
ADVISORY_LOCK = 0x6361636865726C
WAIT_FOR_MIGRATOR = "10min"
WAIT_FOR_TABLE = "10s"


def files(component: str) -> list[Path]:
    """The migration files of a component in their order; UsageError where the numbers leave a gap or a name does not fit."""
    folder = SERVICES / component / "migrations"
    paths = sorted(folder.glob("*.sql")) if folder.is_dir() else []
    for number, path in enumerate(paths, start=1):
        match = FILE.fullmatch(path.name)
        if match is None or int(match[1]) != number or len(path.stem) > MAX_REVISION:
            raise UsageError(
                f"{path}: migrations are named {number:04d}_name.sql, without a gap, at most {MAX_REVISION} characters before the suffix"
            )
    return paths


@cache
def expected_revisions() -> dict[str, str]:
    """Schema → the newest revision that this code knows, for the components that have migrations."""
    return {schema: paths[-1].stem for component, schema in COMPONENTS.items() if (paths := files(component))}


async def check_revisions(connection: AsyncRows, component: str) -> None:
    """Raises ConflictError where the database lacks a migration that `component` or the kit needs; a database that is ahead is fine."""
    for name in {"kit", component} & COMPONENTS.keys():
        schema = COMPONENTS[name]
        expected = expected_revisions().get(schema)
        if expected is None:
            continue
        query = sql.SQL("select max(version_num) as revision from {}").format(sql.Identifier(schema, VERSION_TABLE))
        row = await (await connection.execute(query)).fetchone()
        if row is None or (row["revision"] or "") < expected:
            raise ConflictError(
                f"The schema {schema} is not at {expected}: run `python -m services.kit.migrate`.", slug="migration-missing"
            )


def migrate(owner_dsn: str, *, components: Iterable[str] = tuple(COMPONENTS)) -> None:
    """Brings every schema to its newest revision; does nothing where all are there. `owner_dsn` is the role `cacherl_owner`."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(owner_dsn), poolclass=NullPool)
    try:
        with psycopg.connect(owner_dsn, autocommit=True) as guard:
            guard.execute("select set_config('lock_timeout', %s, false)", (WAIT_FOR_MIGRATOR,))
            guard.execute("select pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            guard.execute("select set_config('lock_timeout', %s, false)", (WAIT_FOR_TABLE,))
            for component in components:
                schema = COMPONENTS[component]
                if files(component):
                    _prepare_schema(guard, schema)
                    with engine.connect() as connection:
                        _upgrade(connection, component, schema)
                    _open_schema(guard, schema)
    finally:
        engine.dispose()


def _prepare_schema(connection: psycopg.Connection[Any], schema: str) -> None:
    connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))


def _open_schema(connection: psycopg.Connection[Any], schema: str) -> None:
    """The app may name the schema's objects, use its sequences and read its revision; rows it gets by `kit.enable_tenancy` alone."""
    identifier = sql.Identifier(schema)
    connection.execute(sql.SQL("grant usage on schema {} to cacherl_app, cacherl_indexer").format(identifier))
    connection.execute(sql.SQL("grant usage on all sequences in schema {} to cacherl_app").format(identifier))
    connection.execute(sql.SQL("grant select on {} to cacherl_app").format(sql.Identifier(schema, VERSION_TABLE)))


def _upgrade(connection: Connection, component: str, schema: str) -> None:
    revisions = RevisionMap(lambda: _scripts(connection, component))
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema, "fn": partial(_steps, revisions, component)}
    )
    with context.begin_transaction():
        _run(connection, sql.SQL("set local lock_timeout = {}").format(sql.Literal(WAIT_FOR_TABLE)))
        context.run_migrations()
    connection.commit()


def _steps(revisions: RevisionMap, component: str, current: tuple[str, ...], _: MigrationContext) -> list[MigrationStep]:
    """The pending steps, oldest first; none where the database is ahead of this code."""
    newest = files(component)[-1].stem
    if current and current[0] >= newest:
        return []
    pending = revisions.iterate_revisions(newest, current or "base", implicit_base=True)
    return [MigrationStep.upgrade_from_script(revisions, cast(Script, revision)) for revision in reversed(list(pending))]


def _scripts(connection: Connection, component: str) -> Iterable[Script]:
    """Alembic's revisions, made in memory from the files."""
    previous: str | None = None
    for path in files(component):
        module = ModuleType(path.stem)
        module.__dict__.update(revision=path.stem, down_revision=previous, upgrade=partial(_run_file, connection, path))
        yield Script(module, path.stem, str(path))
        previous = path.stem


def _run_file(connection: Connection, path: Path) -> None:
    """Runs a whole file as one simple query: no parameters, so `%` and several statements are plain SQL."""
    _run(connection, sql.SQL(cast(LiteralString, path.read_text(encoding="utf-8"))))


def _run(connection: Connection, statement: sql.SQL | sql.Composed) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    driver.execute(statement)


def main() -> None:
    """`python -m services.kit.migrate`: with CACHERL_OWNER_DATABASE_URL (or …_FILE)."""
    argparse.ArgumentParser(prog="python -m services.kit.migrate", description=main.__doc__).parse_args()
    from services.kit.keys import owner_dsn  # noqa: PLC0415 - the settings are needed by the command alone

    migrate(owner_dsn())
    sys.stdout.write("".join(f"{schema}\t{revision}\n" for schema, revision in expected_revisions().items()))


if __name__ == "__main__":
    main()
