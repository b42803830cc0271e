"""The guard: ends what a system started when the process that started it is gone.

Every process of a system carries a random marker in its environment, and so do its children's children. The guard waits
for the end of a pipe that only its parent holds; when the parent goes, however it goes, the guard ends everything that
carries the marker: SIGTERM, then SIGKILL. Postgres is not among them: it dies with its parent by itself, as a fast
shutdown.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

MARKER = "CACHERL_SYSTEM"
PATIENCE_S = 5.0


def marked(marker: str) -> list[psutil.Process]:
    """Every living process but this one whose environment carries the marker."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARKER) == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_marked(marker: str, *, patience_s: float = PATIENCE_S) -> list[int]:
    """Ends every process that carries the marker; the pids that had to be killed."""
    asked = marked(marker)
    for process in asked:
        _send(process, signal.SIGTERM)
    psutil.wait_procs(asked, timeout=patience_s)
    killed: set[int] = set()
    # Again and again: a process may start another while it is being ended.
    while asked and (remaining := marked(marker)):
        for process in remaining:
            killed.add(process.pid)
            _send(process, signal.SIGKILL)
        psutil.wait_procs(remaining, timeout=1)
    return sorted(killed)


def _send(process: psutil.Process, sent: signal.Signals) -> None:
    try:
        process.send_signal(sent)
    except psutil.NoSuchProcess:
        return


def start_guard(marker: str) -> subprocess.Popen[bytes]:
    """Starts the guard of this process; close its stdin, or die, to let it act. It carries no marker itself."""
    environment = {key: value for key, value in os.environ.items() if key != MARKER}
    return subprocess.Popen(
        [sys.executable, "-m", "services.local.guard", marker],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=Path(__file__).resolve().parent.parent.parent,
        start_new_session=True,
    )


def main() -> None:
    """Waits for the parent to go, then ends what it left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])


if __name__ == "__main__":
    main()
