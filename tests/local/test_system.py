import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import psycopg
import pytest

from cacherl.errors import ConflictError, ServiceError, UsageError
from services.local import preflight
from services.local.plan import Plan, environment, service_specs, worker_spec
from services.local.preflight import free_ports
from services.local.process import ProcessSpec
from services.local.runtime import find
from services.local.system import LocalSystem
from tests.local.conftest import running_in
from tests.local.own_system import tiny

ALIVE_S = 60.0
NOTHING: dict[str, object] = {"workers": 0, "engines": 0, "services": ()}


def start(home: Path, *extra: ProcessSpec) -> LocalSystem:
    return LocalSystem.start(home, workers=0, engines=0, services=(), extra=extra)


def await_gone(home: Path, within_s: float = 30.0) -> list[int]:
    end = time.monotonic() + within_s
    while (left := running_in(home)) and time.monotonic() < end:
        time.sleep(0.3)
    return left


def test_a_system_comes_up_is_found_keeps_its_data_and_leaves_nothing(home: Path) -> None:
    port = free_ports(1)[0]
    with start(home, tiny(port)) as system:
        runtime = system.runtime
        assert find(home) == runtime
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz").json()["status"] == "ready"
        private = [home / "runtime.json", *(home / "secrets").iterdir()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
        with psycopg.connect(system.owner_dsn) as connection:
            assert connection.execute("select tenant, cardinality(scopes) from auth.api_keys").fetchall() == [("local", 6)]
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"):
            start(home)
        system.check()
    assert find(home) is None
    assert await_gone(home) == []
    with start(home) as again:
        assert again.runtime.key == runtime.key
        assert again.runtime.marker != runtime.marker


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_an_owner_that_is_killed_or_interrupted_leaves_nothing_running(home: Path, sent: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-m", "tests.local.own_system", str(home)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert owner.stdout is not None
    assert owner.stdout.readline()
    # Postgres, the application, its grandchild in a session of its own, the owner.
    assert len(running_in(home)) >= 4
    owner.send_signal(sent)
    owner.wait(60)
    owner.stdout.close()
    assert await_gone(home) == []
    if sent is signal.SIGKILL:
        assert find(home) is None
        with start(home) as system:
            assert find(home) == system.runtime


def test_a_part_that_does_not_come_up_is_an_error_with_its_log_and_stops_the_rest(home: Path) -> None:
    broken = ProcessSpec("broken", (sys.executable, "-c", "import sys; sys.exit('no such luck')"), url="http://127.0.0.1:1/")
    with pytest.raises(ServiceError, match=r"broken ended with 1(.|\n)*no such luck"):
        start(home, broken)
    assert running_in(home) == []
    slow = ProcessSpec(
        "slow",
        (sys.executable, "-c", "import time; print('still thinking', flush=True); time.sleep(99)"),
        url="http://127.0.0.1:1/",
        deadline_s=1.5,
    )
    with pytest.raises(ServiceError, match=r"slow was not up after(.|\n)*still thinking"):
        start(home, slow)
    assert running_in(home) == []


def test_a_part_that_ends_later_is_noticed(home: Path) -> None:
    brief = ProcessSpec(
        "brief", (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(1); print('bye')"), ready_text="up"
    )
    with start(home, brief) as system:
        system.check()
        while not system.ended():
            time.sleep(0.05)
        with pytest.raises(ServiceError, match=r"brief ended with 0(.|\n)*bye"):
            system.check()


def test_a_port_in_use_names_port_and_owner(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"Port {port} for reward is in use by .*pid {os.getpid()}"):
            LocalSystem.start(home, workers=0, engines=0, services=(), ports={"reward": port})


def test_a_missing_component_says_so(home: Path) -> None:
    with pytest.raises(UsageError, match=r"services\.nothing\.app is not there"):
        LocalSystem.start(home, workers=0, engines=0, services=("nothing",))


def test_a_home_that_cannot_be_written_or_is_nearly_full_says_so(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        preflight.check_home(home / "file")
    with pytest.raises(UsageError, match="GiB left"):
        preflight.check_home(home, free_bytes=1 << 60)


def test_another_thread_cannot_own_a_system(home: Path) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            start(home)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_processes_are_told_addresses_and_files_but_no_secret_and_nothing_that_misleads(tmp_path: Path) -> None:
    plan = Plan(
        ports={"cache_api": 1, "trainer": 2},
        engine_ports=[3, 4],
        shared_root=tmp_path,
        secret_paths={"pepper": tmp_path / "pepper"},
        live_servers={"world": "http://127.0.0.1:5"},
    )
    inherited = {"DATABASE_URL": "postgres://elsewhere", "PGHOST": "elsewhere", "CACHERL_PEPPER": "old", "HOME": "/home/x"}
    told = environment(plan, "mark", inherited)
    assert not {"DATABASE_URL", "PGHOST", "CACHERL_PEPPER"} & told.keys()
    assert (told["HOME"], told["OMP_NUM_THREADS"], told["CACHERL_TRAINER_URL"]) == ("/home/x", "1", "http://127.0.0.1:2")
    assert json.loads(told["CACHERL_ENGINES"]) == ["http://127.0.0.1:3", "http://127.0.0.1:4"]
    assert json.loads(told["CACHERL_LIVE_SERVERS"]) == {"world": "http://127.0.0.1:5"}
    assert told["CACHERL_PEPPER_FILE"] == str(tmp_path / "pepper")
    assert [spec.environment["CACHERL_PORT"] for spec in service_specs(plan)] == ["1", "2"]
    assert "--without-gossip" in worker_spec(plan).command
