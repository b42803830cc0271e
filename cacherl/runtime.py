"""Where a running system is and under which key: from the environment, or from the `runtime.json` in the home of a local system."""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from cacherl.client import Endpoints
from cacherl.errors import ServiceError, UsageError
from cacherl.wire import Wire

HOME = Path(".cacherl")
START_SECONDS = 180.0
STOP_SECONDS = 30.0


class Runtime(Wire):
    """A running system."""

    model_config = ConfigDict(extra="ignore")

    urls: Endpoints
    key: str
    pid: int | None = None
    """Of the local system's owner."""
    up: bool = True
    """False while its parts are still starting."""


def from_environment() -> Runtime | None:
    """`CACHERL_KEY` (or `CACHERL_KEY_FILE`) and `CACHERL_CACHE_API_URL`, `CACHERL_ROLLOUT_URL`, … where they are set."""
    key = os.environ.get("CACHERL_KEY")
    if key is None and (file := os.environ.get("CACHERL_KEY_FILE")):
        key = Path(file).read_text(encoding="utf-8").strip()
    if key is None:
        return None
    urls = {name: os.environ.get(f"CACHERL_{name.upper()}_URL") for name in Endpoints.model_fields}
    return Runtime(urls=Endpoints(**{name: url for name, url in urls.items() if url}), key=key)


def from_home(home: Path) -> Runtime | None:
    """The system that runs in `home`, None where none does."""
    path = home / "runtime.json"
    try:
        runtime = Runtime.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        raise UsageError(f"{path} cannot be read ({type(error).__name__}); remove it if no system runs there") from error
    return runtime if runtime.up and held(home) else None


def connect(home: Path = HOME) -> Runtime:
    """The running system to speak to. Errors: `ServiceError` that says how to start one."""
    runtime = from_environment() or from_home(home)
    if runtime is None:
        raise ServiceError(f"no system runs in {home}: start one with `cacherl up`, or set CACHERL_KEY and the service URLs")
    return runtime


@contextlib.contextmanager
def system(home: Path, *, live_servers: Mapping[str, str] | None = None, context: int = 1024, reuse: bool = True) -> Iterator[Runtime]:
    """A running system: the one in `home` where `reuse` allows, else one of its own that ends with this block."""
    running = from_home(home) if reuse else None
    if running is not None:
        yield running
        return
    command = [sys.executable, "-m", "services.local.up", "--home", str(home), "--with-parent", "--engine-context", str(context)]
    for name, url in (live_servers or {}).items():
        command += ["--live-server", f"{name}={url}"]
    home.mkdir(parents=True, exist_ok=True)
    log = home / "system.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    try:
        _wait(process, log)
        runtime = from_home(home)
        assert runtime is not None, "the system said that it is up"
        yield runtime
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    """The system writes one line when every part has answered."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    if ready and process.stdout.readline():
        return
    if not ready:
        raise ServiceError(f"the local system is not up after {START_SECONDS:.0f} s; see {log}")
    process.wait(STOP_SECONDS)
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
    raise ServiceError("the local system did not start:\n" + "\n".join(tail))


def held(home: Path) -> bool:
    """Whether a system holds the home's lock: a stale runtime file may name anybody's pid, the kernel's lock goes with its owner."""
    try:
        with (home / "lock").open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
