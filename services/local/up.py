"""`python -m services.local.up`: starts the system and keeps it up until Ctrl-C or SIGTERM.

Prints one JSON document (the content of `runtime.json` without the key) once everything answers. Ends with 3 where a part ends by itself.
"""

import argparse
import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from cacherl.errors import AwayError, CacheRLError
from cacherl.lifeline import follow_stdin
from services.local.plan import ENGINE_CONTEXT, SERVICES
from services.local.system import LocalSystem

CHECK_S = 1.0


def _named(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not (name and found and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _port(text: str) -> tuple[str, int]:
    name, value = _named(text)
    if name not in SERVICES or not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(SERVICES)}=PORT")
    return name, int(value)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(prog="python -m services.local.up", description="Runs the whole system on this machine.")
    options.add_argument("--home", type=Path, default=Path(".cacherl"), help="where its data lies")
    options.add_argument("--workers", type=int, default=2, help="jobs at a time")
    options.add_argument("--engines", type=int, default=2, help="engine processes")
    options.add_argument(
        "--port", type=_port, action="append", default=[], metavar="SERVICE=PORT", help="a fixed port; others are free ones"
    )
    options.add_argument("--engine-context", type=int, default=ENGINE_CONTEXT, help="tokens of the longest episode")
    options.add_argument("--with-parent", action="store_true", help="stop when standard input ends: the parent is gone")
    options.add_argument("--live-server", type=_named, action="append", default=[], metavar="NAME=URL", help="a live tool server")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs until told to stop; the exit code."""
    options = parser().parse_args(arguments)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    if options.with_parent:
        follow_stdin()
    try:
        with LocalSystem.start(
            options.home,
            workers=options.workers,
            engines=options.engines,
            ports=dict(options.port),
            live_servers=dict(options.live_server),
            engine_context=options.engine_context,
        ) as system:
            shown = {name: value for name, value in asdict(system.runtime).items() if name != "key"}
            sys.stdout.write(json.dumps(shown) + "\n")
            sys.stdout.flush()
            while not told.wait(CHECK_S):
                system.check()
    except CacheRLError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 3 if isinstance(error, AwayError) else 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
