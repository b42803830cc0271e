"""Owns a system with one tiny application until it is killed: `python -m tests.local.own_system HOME`."""

import sys
import time
from pathlib import Path

from services.local.preflight import free_ports
from services.local.process import ProcessSpec
from services.local.system import LocalSystem


def tiny(port: int, **environment: str) -> ProcessSpec:
    command = (sys.executable, "-m", "tests.local.tiny_app")
    return ProcessSpec("tiny", command, {"TINY_PORT": str(port), **environment}, url=f"http://127.0.0.1:{port}/readyz")


if __name__ == "__main__":
    port = free_ports(1)[0]
    with LocalSystem.start(Path(sys.argv[1]), workers=0, engines=0, services=(), extra=[tiny(port, TINY_GRANDCHILD="1")]):
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        time.sleep(3600)
