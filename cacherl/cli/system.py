"""`cacherl up`, `down`, `status`: the local system, and whether a system answers."""

import asyncio
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import typer

import cacherl
from cacherl.cli.output import AWAY, print_json, print_table, speaks_plainly
from cacherl.client.transport import Transport
from cacherl.errors import CacheRLError, UsageError
from cacherl.runtime import HOME, connect, from_home, held

HomeOption = typer.Option(HOME, "--home", help="Folder of the local system: database, weights, logs.", envvar="CACHERL_HOME")
JsonOption = typer.Option(False, "--json", help="Print one JSON document.")


def need_checkout(module: str, command: str) -> None:
    """Makes the checkout's `services` and `demo` importable, here and in what is started from here, whatever the working directory.

    Errors: `UsageError` where they are not here (the wheel ships library, SDK and command line alone).
    """
    root = Path(cacherl.__file__).resolve().parents[1]
    if (root / "services/local/up.py").is_file():
        sys.path.insert(0, str(root))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    if importlib.util.find_spec(module) is None:
        raise UsageError(
            f"`cacherl {command}` runs from a checkout of the repository or from its image; the installed package has no services"
        )


@speaks_plainly
def up(
    home: Path = HomeOption,
    live: list[str] = typer.Option([], "--live-server", help="A live tool server as NAME=URL; may be given several times."),
) -> None:
    """Start the local system in the foreground: Postgres, queue, services, engines on loopback. Ctrl-C stops all of it."""
    need_checkout("services", "up")
    arguments = [sys.executable, "-m", "services.local.up", "--home", str(home)]
    for server in live:
        arguments += ["--live-server", server]
    os.execv(sys.executable, arguments)  # noqa: S606  (the same interpreter, our own module)


@speaks_plainly
def down(home: Path = HomeOption) -> None:
    """Stop the local system of a home."""
    runtime = from_home(home)
    if runtime is None or runtime.pid is None or not held(home):
        typer.echo(f"no system runs in {home}", err=True)
        return
    os.kill(runtime.pid, signal.SIGTERM)
    for _ in range(300):
        if not held(home):
            typer.echo(f"stopped the system in {home}", err=True)
            return
        time.sleep(0.1)
    raise UsageError(f"process {runtime.pid} does not stop; its log is in {home}")


@speaks_plainly
def status(home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """Whether the services of a system answer."""
    runtime = connect(home)
    found = asyncio.run(_ask(runtime.urls.model_dump(), runtime.key))
    if as_json:
        print_json({"schema": "cacherl.status/1", "services": found})
    else:
        print_table(["service", "url", "state"], [[s["name"], s["url"], s["state"]] for s in found])
    if any(service["state"] != "ready" for service in found):
        raise typer.Exit(AWAY)


async def _ask(urls: dict[str, str], key: str) -> list[dict[str, str]]:
    found = []
    for name, url in urls.items():
        http = Transport(url, key, timeout=5, attempts=1)
        try:
            await http.file("/readyz")
            state = "ready"
        except CacheRLError as error:
            state = error.detail
        finally:
            await http.close()
        found.append({"name": name, "url": url, "state": state})
    return found
