"""An SGLang server as a child process: built if need be, started, waited for, stopped.

It has a process group of its own, so nothing of it is left behind, and dies with its parent. Runs in the main environment.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
VENV = REPOSITORY / ".venv-sglang"
START_SECONDS = 180.0
STOP_SECONDS = 15.0


class SGLangStartError(RuntimeError):
    """The environment could not be built, or the server did not come up; carries the end of its log."""


def build() -> None:
    """Builds `.venv-sglang` unless it is up to date.

    Raises:
        SGLangStartError: It cannot be built here.
    """
    done = subprocess.run([str(HERE / "setup.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SGLangStartError(f"setup.sh failed ({done.returncode}):\n{done.stderr[-4000:]}")


@contextmanager
def running(model: Path, weight_version: str, log: Path, context: int = 1024, options: tuple[str, ...] = ()) -> Iterator[str]:
    """A server of the policy directory `model`, float32, answering as `weight_version`; yields its address.

    Raises:
        SGLangStartError: Not up in time.
    """
    port = free_port()
    process = start(model, weight_version, log, context, port, options)
    try:
        url = f"http://127.0.0.1:{port}"
        wait(url, process, log)
        yield url
    finally:
        stop(process)


def start(model: Path, weight_version: str, log: Path, context: int, port: int, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Starts the process; does not wait for it."""
    # fmt: off
    command = [
        str(VENV / "bin" / "python"), str(HERE / "launch.py"),
        "--model-path", str(model), "--weight-version", weight_version,
        "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
        "--dtype", "float32",                   # else float16
        "--context-length", str(context),
        "--max-total-tokens", "65536",          # else most of the memory goes to the cache
        "--max-running-requests", "64",
        "--sleep-on-idle",                      # else an idle scheduler burns a core
        "--skip-server-warmup",
        "--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled",
        "--random-seed", "1",
        *options,
    ]
    # fmt: on
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CACHERL_DIE_WITH_PARENT": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the server generates."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SGLangStartError(f"SGLang ended with {process.returncode}; its log ends:\n{_tail(log)}")
        try:
            # it answers by generating one token, which takes a second
            with urlopen(f"{url}/health", timeout=10) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    raise SGLangStartError(f"SGLang is not up after {START_SECONDS:.0f} s; its log ends:\n{_tail(log)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and everything that it started."""
    for how, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, how)
            process.wait(seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(5.0)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
