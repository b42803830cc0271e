"""What runs on a home, and the lock that keeps a second system off it.

`<home>/runtime.json` lets a second command find the system. It can be stale: `find` believes it only while the process that wrote it lives.
The lock is the kernel's (flock): it goes with its process, however that ends.
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from cacherl.errors import ConflictError
from services.local.secret_files import write_private

FILE = "runtime.json"
SCHEMA = "cacherl.runtime/1"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running system."""

    pid: int
    started: float
    """When that process was created: tells it from another with its number."""

    marker: str
    urls: dict[str, str]
    """`cache_api`, `rollout`, `reward`, `trainer` → base address."""

    engines: list[str]
    live_servers: dict[str, str]
    key: str = field(repr=False)
    """An API key of the tenant `local` with every scope."""

    shared_root: str
    logs: str
    processes: dict[str, int]
    """Name → pid."""

    up: bool = False
    """Whether every part has answered."""

    schema: str = SCHEMA

    def write(self, home: Path) -> None:
        """Publishes it, readable by this user alone: it holds the key."""
        write_private(home / FILE, json.dumps(asdict(self), indent=1) + "\n")


def read(home: Path) -> Runtime | None:
    """What the file says, alive or not; None where there is no readable one."""
    with suppress(OSError, ValueError, TypeError):
        return Runtime(**json.loads((home / FILE).read_text(encoding="utf-8")))
    return None


def find(home: Path) -> Runtime | None:
    """The system that is up on `home` now, or None."""
    runtime = read(home)
    with suppress(psutil.Error):
        if runtime is not None and runtime.up and abs(psutil.Process(runtime.pid).create_time() - runtime.started) < 1.0:
            return runtime
    return None


class HomeLock:
    """Held by the one system of a home."""

    def __init__(self, home: Path) -> None:
        self._file = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            running = read(home)
            who = f" (pid {running.pid})" if running else ""
            raise ConflictError(
                f"A system runs on {home} already{who}: stop it first, or choose another home.", slug="home-in-use"
            ) from None

    def release(self) -> None:
        """Lets the next system in."""
        os.close(self._file)
