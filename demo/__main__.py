"""`python -m demo`: what `make demo` and `cacherl demo` run."""

import argparse
import sys
from pathlib import Path

from cacherl.cli.output import print_json, speaks_plainly
from demo.config import SIZES
from demo.run import run_demo


@speaks_plainly
def main(arguments: list[str] | None = None) -> None:
    """The command. A missing option, a busy home or a failed job is one line and an exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Run the whole system on a small world of its own.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where the report goes")
    parser.add_argument("--size", choices=sorted(SIZES), default="standard", help="how much of everything")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    options = parser.parse_args(arguments)
    report = run_demo(options.out, size=options.size, seed=options.seed)
    if options.json:
        print_json(report)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # typer.Exit carries the code
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        sys.exit(code)
