import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cacherl.errors import ServiceError
from services.kit.postgres import Database
from services.local.account import Account, can_enter, place_for
from services.local.postgres import PostgresServer, processes_in
from tests.local.conftest import running_in

OWNER = """
import sys, time
from pathlib import Path
from services.local.postgres import PostgresServer
server = PostgresServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def server(home: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(home)
    server.start()
    yield server
    server.stop()


def rows(server: PostgresServer) -> int:
    with psycopg.connect(server.dsn()) as connection:
        found = connection.execute("select count(*) from kept").fetchone()
    assert found is not None
    return found[0]


def kill_postmaster(server: PostgresServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.01)


def gone(home: Path, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while running_in(home):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_it_writes_through_listens_on_loopback_and_asks_for_passwords(server: PostgresServer) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        shown = [connection.execute(f"show {name}").fetchone() for name in ("fsync", "synchronous_commit", "listen_addresses")]
        assert shown == [("on",), ("on",), ("127.0.0.1",)]
        connection.execute("drop role if exists other; create role other login password 'right'")
    assert psycopg.connect(server.dsn(user="other", password="right")).close() is None
    for dsn in (server.dsn(user="other", password="wrong"), f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"password|authentication"):
            psycopg.connect(dsn)


def test_what_was_acknowledged_survives_a_killed_postmaster(server: PostgresServer) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("drop table if exists kept; create table kept (n int)")
        for number in range(20):
            connection.execute("insert into kept values (%s)", (number,))
    kill_postmaster(server)
    server.start()
    assert rows(server) == 20
    server.stop()
    server.start()
    assert rows(server) == 20


async def test_a_pool_goes_on_after_a_killed_postmaster_came_back(server: PostgresServer) -> None:
    database = await Database.open(server.dsn(), max_size=2)
    for _ in range(2):
        async with database.system() as connection:
            await connection.execute("select 1")
        kill_postmaster(server)
        server.start()
    async with database.system() as connection:
        assert await (await connection.execute("select 1 as n")).fetchone() == {"n": 1}
    await database.close()


def test_a_left_over_server_is_stopped_by_pid_and_data_directory(server: PostgresServer, home: Path) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("drop table if exists kept; create table kept as select 1 as n")
    former = server.pid
    second = PostgresServer(home)
    second.start()
    assert second.pid not in (None, former)
    assert server.pid is None
    assert rows(second) == 1
    second.stop()


def test_a_pid_file_that_names_a_stranger_is_not_believed(server: PostgresServer) -> None:
    server.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        (server.data / "postmaster.pid").write_text(f"{stranger.pid}\n{server.data}\n1\n{server.port}\n\n127.0.0.1\n\nready\n")
        server.start()
        assert server.pid not in (None, stranger.pid)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_it_goes_with_a_killed_parent(home: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert int(owner.stdout.readline()) in running_in(home)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert gone(home)
    server = PostgresServer(home)
    server.start()
    assert processes_in(server.data)
    server.stop()


def test_a_start_that_fails_quotes_the_log(home: Path) -> None:
    server = PostgresServer(home, settings={"shared_buffers": "lots"})
    with pytest.raises(ServiceError, match="shared_buffers"):
        server.start()


def test_a_deep_home_gets_a_short_socket(home: Path) -> None:
    server = PostgresServer(home / ("d" * 90))
    server.start()
    assert len(str(server.sockets)) < 80
    assert psycopg.connect(server.dsn()).close() is None
    server.remove()


def test_a_closed_home_is_left_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    other = Account(uid=65534, gid=65534, other=True)
    assert not can_enter(tmp_path, other)
    assert not place_for(tmp_path, other).is_relative_to(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    ours = Account(uid=os.geteuid(), gid=os.getegid(), other=False)
    assert place_for(tmp_path, ours) == tmp_path
