"""`python -m benchmarks`: lists the benchmarks there are, or runs them and keeps what they print.

    python -m benchmarks --list
    python -m benchmarks                                     all of them, as `make bench` does
    python -m benchmarks rollout.engine -- --threads 1       one, with options of its own

A benchmark is a module of a folder here that prints one JSON object. Each runs in a process of its own, one after the other. Its answer
goes to `benchmarks/results/<name>.json`, together with when and on what it was measured.
"""

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"


def found() -> dict[str, Path]:
    """Name → file of every benchmark."""
    files = sorted(path for path in ROOT.glob("*/*.py") if not path.stem.startswith("_"))
    whole = {path.parent.name: path for path in sorted(ROOT.glob("*/__main__.py"))}  # a folder that is one benchmark
    return {f"{path.parent.name}.{path.stem}": path for path in files} | whole


def purpose(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def measure(name: str, options: list[str]) -> dict[str, Any]:
    """Runs a benchmark; its answer with the circumstances. Errors: `CalledProcessError`, and ValueError for an answer that is no JSON."""
    began = datetime.now(UTC)
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    out = subprocess.run(command, cwd=ROOT.parent, stdout=subprocess.PIPE, check=True, text=True).stdout
    return {
        "benchmark": name,
        "options": options,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds(), 1),
        "machine": {
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "load_average_after": os.getloadavg(),
        "result": json.loads(out),
    }


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 where a benchmark failed, 2 for a name that is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Lists the benchmarks, or runs them.")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the answers")
    parser.add_argument("names", nargs="*", help="which to run; default: all. Options after -- go to the benchmark")
    given = sys.argv[1:] if arguments is None else arguments
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])
    known = found()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if options.list:
        for name, path in known.items():
            print(f"{name:20} {purpose(path)}")
        return 0
    failed = 0
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            answer = measure(name, given[cut + 1 :])
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed = 1
            continue
        path = options.results / f"{name}.json"
        path.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {answer['seconds']} s, {path}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
