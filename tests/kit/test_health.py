import asyncio
import threading
import time
from pathlib import Path

import psycopg
import pytest

from cacherl.errors import ConflictError, UsageError
from services.kit import migrate as migrations
from services.kit.migrate import check_revisions, expected_revisions, migrate
from services.kit.postgres import Database
from services.kit.settings import ServiceSettings
from services.local.scratch import DatabaseDsns
from tests.conftest import Serve
from tests.kit.sample import sample


async def test_ready_says_what_is_away_without_saying_why(sample_settings: ServiceSettings, serve: Serve) -> None:
    calls = 0

    async def engine() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError("10.1.2.3 refused")

    async def judge() -> None:
        await asyncio.sleep(30)

    client = await serve(sample(sample_settings, ready=[engine, judge]))
    started = time.monotonic()
    answers = await asyncio.gather(*(client.get("/readyz") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["checks"] == {"database": "ok", "engine": "away", "judge": "slow"}
    assert "10.1.2.3" not in answers[0].text
    assert calls == 1
    assert time.monotonic() - started < 5
    assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_ready_when_all_answer(sample_settings: ServiceSettings, serve: Serve) -> None:
    answer = await (await serve(sample(sample_settings))).get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "checks": {"database": "ok"}})


async def test_a_missing_migration_is_not_ready_and_a_newer_database_is(database: Database, database_dsns: DatabaseDsns) -> None:
    revision = expected_revisions()["kit"]
    for stored, ready in ((revision, True), ("9999_future", True), ("0000_past", False)):
        with psycopg.connect(database_dsns.owner) as connection:
            connection.execute("update kit.alembic_version set version_num = %s", (stored,))
        async with database.system() as connection:
            if ready:
                await check_revisions(connection, "sample")
            else:
                with pytest.raises(ConflictError, match=r"services\.kit\.migrate"):
                    await check_revisions(connection, "sample")


def test_migrating_again_changes_nothing_even_from_several_places_at_once(database_dsns: DatabaseDsns) -> None:
    before = _shape(database_dsns)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate(database_dsns.owner, components=("kit",))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert _shape(database_dsns) == before


def _shape(dsns: DatabaseDsns) -> list[tuple[object, ...]]:
    with psycopg.connect(dsns.owner) as connection:
        return connection.execute(
            "select table_schema, table_name, column_name, data_type from information_schema.columns"
            " where table_schema in ('kit', 'auth') order by 1, 2, 3"
        ).fetchall()


def test_new_files_are_applied_in_order_and_a_broken_one_leaves_nothing(
    database_dsns: DatabaseDsns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sample" / "migrations"
    folder.mkdir(parents=True)
    (folder / "0001_one.sql").write_text("create table fresh.one (id int, note text default '100%');")
    monkeypatch.setattr(migrations, "SERVICES", tmp_path)
    monkeypatch.setattr(migrations, "COMPONENTS", {"sample": "fresh"})
    migrate(database_dsns.owner, components=("sample",))
    (folder / "0002_two.sql").write_text("create table fresh.two (id int);\nselect no_such_function();")
    with pytest.raises(psycopg.errors.UndefinedFunction):
        migrate(database_dsns.owner, components=("sample",))
    (folder / "0002_two.sql").write_text("create table fresh.two (id int); alter table fresh.one add column more int;")
    migrate(database_dsns.owner, components=("sample",))
    with psycopg.connect(database_dsns.owner) as connection:
        assert connection.execute("select version_num from fresh.alembic_version").fetchall() == [("0002_two",)]
        assert connection.execute("select count(*) from fresh.two").fetchone() == (0,)


def test_one_migrator_waits_for_another(database_dsns: DatabaseDsns) -> None:
    with psycopg.connect(database_dsns.owner, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrations.ADVISORY_LOCK,))
        thread = threading.Thread(target=migrate, args=(database_dsns.owner,), kwargs={"components": ("kit",)})
        thread.start()
        thread.join(0.7)
        assert thread.is_alive()
        other.execute("select pg_advisory_unlock(%s)", (migrations.ADVISORY_LOCK,))
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("names", [["0002_gap.sql"], ["0001_Upper.sql"], ["0001_a.sql", "0001_b.sql"], ["0001_" + "x" * 40 + ".sql"]])
def test_a_misnamed_migration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    folder = tmp_path / "sample" / "migrations"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    monkeypatch.setattr(migrations, "SERVICES", tmp_path)
    with pytest.raises(UsageError, match=r"0001_name|0002_name"):
        migrations.files("sample")
