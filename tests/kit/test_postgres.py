import asyncio
from pathlib import Path

import psycopg
import pytest
from pgvector import HalfVector

from services.kit.postgres import Database, SyncDatabase, load_queries
from services.local.scratch import DatabaseDsns, Scratch
from tests.kit.sample import TABLE


@pytest.fixture
def notes(database_dsns: DatabaseDsns) -> DatabaseDsns:
    with psycopg.connect(database_dsns.owner) as connection:
        connection.execute(TABLE)
        connection.execute("insert into sample.notes values ('1', 'a', 'of a'), ('2', 'b', 'of b')")
    return database_dsns


async def texts(database: Database, tenant: str | None) -> list[str]:
    scope = database.tenant(tenant) if tenant else database.system()
    async with scope as connection:
        rows = await (await connection.execute("select text from sample.notes order by id")).fetchall()
    return [row["text"] for row in rows]


async def test_without_a_tenant_there_are_no_rows(notes: DatabaseDsns, database: Database) -> None:
    assert await texts(database, None) == []


async def test_a_tenant_sees_its_own_rows_and_a_pooled_connection_forgets_it(notes: DatabaseDsns) -> None:
    database = await Database.open(notes.app, max_size=1)
    assert await texts(database, "a") == ["of a"]
    assert await texts(database, None) == []
    assert await texts(database, "b") == ["of b"]
    with pytest.raises(ZeroDivisionError):
        async with database.tenant("a"):
            raise ZeroDivisionError
    assert await texts(database, None) == []
    await database.close()


async def test_a_row_of_another_tenant_can_be_neither_written_nor_moved(notes: DatabaseDsns, database: Database) -> None:
    for statement in ("insert into sample.notes values ('3', 'b', 'x')", "update sample.notes set tenant = 'b'"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.tenant("a") as connection:
                await connection.execute(statement)
    async with database.tenant("a") as connection:
        assert (await connection.execute("update sample.notes set text = 'mine' where tenant = 'b'")).rowcount == 0
        assert (await connection.execute("delete from sample.notes where id = '2'")).rowcount == 0


async def test_an_empty_tenant_is_a_mistake(database: Database) -> None:
    with pytest.raises(ValueError, match="a tenant has a name"):
        async with database.tenant(""):
            pass


async def test_the_app_has_no_ddl(notes: DatabaseDsns, database: Database) -> None:
    for statement in ("create table sample.more (id int)", "alter table sample.notes disable row level security", "create schema x"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.tenant("a") as connection:
                await connection.execute(statement)


def test_the_indexer_may_own_a_table_and_index_it_while_its_rows_stay_hidden(notes: DatabaseDsns) -> None:
    with psycopg.connect(notes.owner) as connection:
        connection.execute("grant usage, create on schema sample to cacherl_indexer")
        connection.execute("alter table sample.notes owner to cacherl_indexer")
    with psycopg.connect(notes.indexer, autocommit=True) as connection:
        connection.execute("create index concurrently notes_text on sample.notes (text)")
        assert connection.execute("select count(*) from sample.notes").fetchone() == (0,)
    with psycopg.connect(notes.owner) as connection:
        connection.execute("alter table sample.notes add column extra text")


async def test_leaving_the_block_commits_and_an_error_rolls_back(notes: DatabaseDsns, database: Database) -> None:
    async with database.tenant("c") as connection:
        await connection.execute("insert into sample.notes values ('3', 'c', 'kept')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with database.tenant("c") as connection:
            await connection.execute(
                "insert into sample.notes values ('4', 'c', 'lost'); insert into sample.notes values ('4', 'c', 'twice')"
            )
    assert await texts(database, "c") == ["kept"]


async def test_committing_by_hand_is_an_error(database: Database) -> None:
    with pytest.raises(psycopg.ProgrammingError):
        async with database.tenant("a") as connection:
            await connection.commit()


async def test_the_pool_replaces_connections_that_the_server_closed(notes: DatabaseDsns, scratch: Scratch, database: Database) -> None:
    assert await texts(database, "a") == ["of a"]
    with psycopg.connect(scratch.admin, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'cacherl_app' and datname = %s",
            (psycopg.conninfo.conninfo_to_dict(notes.app)["dbname"],),
        )
    await asyncio.sleep(0.2)
    assert await texts(database, "a") == ["of a"]


def test_the_synchronous_database_keeps_the_same_promises(notes: DatabaseDsns) -> None:
    database = SyncDatabase.open(notes.app, max_size=1)
    with database.tenant("a") as connection:
        assert connection.execute("select text from sample.notes").fetchall() == [{"text": "of a"}]
        with pytest.raises(psycopg.ProgrammingError):
            connection.rollback()
    with database.system() as connection:
        assert connection.execute("select text from sample.notes").fetchall() == []
    database.close()


async def test_maintenance_runs_what_refuses_a_transaction(notes: DatabaseDsns) -> None:
    database = await Database.open(notes.owner, max_size=1)
    async with database.maintenance() as connection:
        await connection.execute("create index concurrently notes_text on sample.notes (text)")
    await database.close()


async def test_vectors_are_read_as_vectors(database: Database) -> None:
    async with database.system() as connection:
        row = await (await connection.execute("select %s::halfvec(3) as v", (HalfVector([1, 2, 3]),))).fetchone()
    assert row is not None
    assert row["v"].to_list() == [1, 2, 3]


def test_queries_are_read_by_name(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text("-- head\n\n-- name: find\n-- Finds it.\nselect 1 -- one\n  as found;\n\n-- name: put\ninsert into x values ('%;');\n")
    queries = load_queries(file)
    assert queries.find.as_string() == "select 1 -- one\n  as found"
    assert queries.put.as_string() == "insert into x values ('%;')"
    with pytest.raises(AttributeError, match="no query named 'other'"):
        _ = queries.other


@pytest.mark.parametrize(
    "text", ["-- name: a\nselect 1;\n-- name: a\nselect 2;", "-- name: not-one\nselect 1", "-- name: empty\n-- only words\n"]
)
def test_a_file_of_queries_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "queries.sql").write_text(text)
    with pytest.raises(ValueError, match=r"queries\.sql"):
        load_queries(tmp_path / "queries.sql")
