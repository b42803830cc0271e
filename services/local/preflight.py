"""What is checked before anything starts, so that a start fails at once and says why."""

import os
import shutil
import socket
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import psutil

from cacherl.errors import UsageError

GIBIBYTE = 1 << 30


def check_home(home: Path, *, free_bytes: int = GIBIBYTE) -> None:
    """Makes `home`; UsageError where it cannot be written or its disk is nearly full."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".probe-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{home} cannot be written ({error.strerror}): choose another home.", slug="home-not-writable") from error
    free = shutil.disk_usage(home).free
    if free < free_bytes:
        raise UsageError(f"{home} has {free / GIBIBYTE:.2f} GiB left on its disk and needs {free_bytes / GIBIBYTE:.0f}.", slug="disk-full")


def check_component(module: str) -> None:
    """UsageError where a part of the system is not installed here."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise UsageError(f"{module} is not there: run from a checkout or an image that has it.", slug="component-missing")


def check_port(port: int, purpose: str) -> None:
    """UsageError where somebody listens on this loopback port already, naming who where that is known."""
    with socket.socket() as probe:
        # As servers do: a port that only waits for old connections to end is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            owner = listener(port) or "somebody"
            raise UsageError(
                f"Port {port} for {purpose} is in use by {owner}: choose another, or stop what uses it.", slug="port-in-use"
            ) from error


def listener(port: int) -> str | None:
    """Name and pid of the process that listens on a port, where this user may know."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listens on just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
