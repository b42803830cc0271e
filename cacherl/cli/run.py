"""`cacherl demo` and `cacherl run`: the main job, on the demo's own world or on your logs."""

import os
import sys
from pathlib import Path

import typer

from cacherl.cli.fidelity import read_annotations
from cacherl.cli.output import print_json, speaks_plainly
from cacherl.cli.system import JsonOption, need_checkout
from cacherl.errors import UsageError
from cacherl.importers import FORMATS
from cacherl.pipeline.bounded import bounded_plan
from cacherl.pipeline.plan import RunPlan


@speaks_plainly
def demo(
    out: Path = typer.Option(Path("runs/demo"), "--out", help="Where the report goes."),
    size: str = typer.Option("standard", help="smoke (about a minute), standard (about 15 minutes) or full."),
    seed: int = typer.Option(0, help="Seed of everything."),
    as_json: bool = JsonOption,
) -> None:
    """Run the whole system on a small world of its own: data, cache, SFT, GRPO, evaluation, report."""
    need_checkout("demo", "demo")
    arguments = [sys.executable, "-m", "demo", "--out", str(out), "--size", size, "--seed", str(seed)]
    os.execv(sys.executable, arguments + (["--json"] if as_json else []))  # noqa: S606  (the same interpreter, our own module)


@speaks_plainly
def run(  # noqa: PLR0913, PLR0917  (one option each)
    data: list[Path] = typer.Option([], "--data", help="Recorded logs, any format that can be imported; may be given several times."),
    out: Path = typer.Option(..., "--out", help="Where the report goes."),
    format_: str = typer.Option("auto", "--format", help="Name of the importer; default: recognised."),
    scenario: str | None = typer.Option(
        None, help="Scenario: a field of the records, a JMESPath expression on them, or one name for all; default: what the importer says."
    ),
    annotations: Path | None = typer.Option(
        None, help="JSON object: tool name → annotations, given to the caches before anything is inferred."
    ),
    sft_steps: int = typer.Option(200, min=1, help="Steps of SFT."),
    grpo_steps: int = typer.Option(3, min=1, help="Steps of GRPO."),
    max_tasks: int = typer.Option(24, min=1, help="Held-out tasks to evaluate on."),
    plan: Path | None = typer.Option(
        None, help="Instead of --data: a file with a whole plan as JSON (fields: cacherl.pipeline.plan.RunPlan)."
    ),
    seed: int = typer.Option(0, help="Seed of everything."),
    as_json: bool = JsonOption,
) -> None:
    """Import logs, build the cache, train and evaluate the tiny model for a bounded number of steps, and report honestly."""
    need_checkout("services", "run")
    if bool(data) == (plan is not None):
        raise UsageError("give either --data, once or more often, or --plan")
    if format_ not in ("auto", *FORMATS):
        raise UsageError(f"there is no format {format_!r}; choose {', '.join(FORMATS)} or auto")
    if annotations is not None and plan is not None:
        raise UsageError("--annotations goes with --data: a plan has a field for them")
    if plan is not None:
        chosen = RunPlan.model_validate_json(plan.read_bytes())
    else:
        chosen = bounded_plan(
            data,
            format_=format_,
            scenario=scenario,
            annotations=read_annotations(annotations) if annotations is not None else {},
            sft_steps=sft_steps,
            grpo_steps=grpo_steps,
            max_tasks=max_tasks,
            seed=seed,
        )
    missing = [str(path) for path in (*chosen.logs, *chosen.cache_logs, *chosen.validation_logs) if not path.is_file()]
    if missing:
        raise UsageError(f"there is no file {', '.join(missing)}")
    from cacherl.main_job import execute  # noqa: PLC0415  (the report draws with matplotlib, which the other commands need not have)

    report = execute(chosen, out, live_away="recorded logs have no live tools to call")
    if as_json:
        print_json(report)
