"""Runs the world: `python -m demo.world --port 8010`. Binds to loopback; prints one line when it listens."""

import argparse

import uvicorn

from cacherl.lifeline import follow_stdin
from demo.world.server import MAX_SESSIONS, app


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m demo.world", description="Run the demo's world: live tools on loopback.")
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--max-sessions", type=int, default=MAX_SESSIONS)
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends: the parent is gone")
    arguments = parser.parse_args(argv)
    if arguments.with_parent:
        follow_stdin()
    uvicorn.run(app(arguments.max_sessions), host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
