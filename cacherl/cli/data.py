"""`cacherl data`: look at logs before anything is trained on them."""

from pathlib import Path

import typer

from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import JsonOption
from cacherl.inspect_data import inspect as inspect_files

app = typer.Typer(no_args_is_help=True, help="Look at recorded trajectories.")


@app.command()
@speaks_plainly
def inspect(files: list[Path] = typer.Argument(help="Logs in any format that can be imported."), as_json: bool = JsonOption) -> None:
    """Say what is in logs: format, what can be imported, tools, conflicts, coverage."""
    report = inspect_files(files)
    if as_json:
        print_json(report)
        return
    print_table(
        ["file", "format", "records", "imported", "repaired", "refused"],
        [[f.path, f.format, str(f.records), str(f.imported), str(f.repaired), str(f.refused)] for f in report.files],
    )
    print_table(
        ["tool", "calls", "errors", "keys", "conflicting"],
        [[t.name, str(t.calls), str(t.errors), str(t.keys), str(t.conflicting_keys)] for t in report.tools],
    )
