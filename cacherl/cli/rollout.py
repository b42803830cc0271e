"""`cacherl rollout`: episodes and their invariants."""

from pathlib import Path

import typer

from cacherl.cli.output import FAILED, print_json, print_table, speaks_plainly
from cacherl.cli.system import JsonOption
from cacherl.verify import verify_file

app = typer.Typer(no_args_is_help=True, help="Episodes of rollouts.")


@app.command()
@speaks_plainly
def verify(file: Path = typer.Argument(help="*.episodes.jsonl or *.episodes.jsonl.zst"), as_json: bool = JsonOption) -> None:
    """Check every invariant of every episode of a file; exit code 1 if one is broken."""
    report = verify_file(file)
    if as_json:
        print_json(report)
    else:
        typer.echo(f"{report.episodes} episodes, {len(report.violations)} violations")
        if report.violations:
            rows = [[v.episode, v.invariant, str(v.index), v.detail] for v in report.violations[:50]]
            print_table(["episode", "invariant", "turn", "detail"], rows)
    if report.violations:
        raise typer.Exit(FAILED)
