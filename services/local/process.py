"""Child processes: a log file each, a session each, and the promise that none outlives its parent.

A child is told by the kernel when its parent dies (Linux); the guard ends whatever does not listen. Stopping is polite
first: SIGTERM to the child, then SIGKILL to its whole process group. A child that does not come up in time is an error
that quotes the end of its log.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cacherl.errors import ServiceError

PR_SET_PDEATHSIG = 1
TAIL_LINES = 20
TAIL_BYTES = 16384


def die_with_parent(sent: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before it becomes its program, so that it gets `sent` when its parent goes; None where no system call does it."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(sent))
        if os.getppid() != parent:
            os._exit(1)  # the parent went before it could be asked for

    return ask


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-TAIL_LINES:]) or "(the log is empty)"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment that the system gives to all."""

    url: str | None = None
    """Where it answers 200 once it is up; without it and without `ready_text` it counts as up after `settle_s`."""

    ready_text: str | None = None
    """What its log says once it is up."""

    settle_s: float = 0.5
    deadline_s: float = 120.0
    stop_s: float = 15.0
    """How long it may take over SIGTERM."""

    stop_signal: signal.Signals = signal.SIGTERM


class ChildProcess:
    """One running process."""

    def __init__(self, spec: ProcessSpec, *, log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        self.spec = spec
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                spec.command,
                cwd=cwd,
                env={**environment, **spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one prctl call, nothing that could lock
            )

    @property
    def pid(self) -> int:
        """The process id, which is its process group as well."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def await_up(self) -> None:
        """Waits until it answers; ServiceError with the log's end where it ends or takes too long."""
        started = time.monotonic()
        while time.monotonic() - started < self.spec.deadline_s:
            if self.returncode is not None:
                raise ServiceError(f"{self.spec.name} ended with {self.returncode}; {self.log} ends with:\n{tail(self.log)}")
            if self._is_up(time.monotonic() - started):
                return
            time.sleep(0.05)
        raise ServiceError(f"{self.spec.name} was not up after {self.spec.deadline_s:.0f} s; {self.log} ends with:\n{tail(self.log)}")

    def _is_up(self, waited_s: float) -> bool:
        if self.spec.url is not None:
            return answers(self.spec.url)
        if self.spec.ready_text is not None:
            return self.spec.ready_text in self.log.read_text(encoding="utf-8", errors="replace")
        return waited_s >= self.spec.settle_s

    def ask_to_stop(self) -> None:
        """Sends the polite signal to the process itself; `stop` waits."""
        if self.returncode is None:
            self._process.send_signal(self.spec.stop_signal)

    def stop(self) -> None:
        """Waits for the polite end, then kills the group."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.spec.stop_s)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def answers(url: str) -> bool:
    """Whether a loopback address of ours answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - an address that this module's owner made up
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False
