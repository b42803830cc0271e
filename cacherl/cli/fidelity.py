"""`cacherl cache fidelity`, `calibrate`, `calibration`: how wrong a cache is, measured."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from pydantic import TypeAdapter, ValidationError

from cacherl.api.cache import Calibration, CalibrationCreate
from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import HomeOption, JsonOption, need_checkout
from cacherl.client import CacheClient
from cacherl.errors import NotFoundError, ServiceError, UsageError
from cacherl.fidelity.measure import FidelityReport, measure
from cacherl.fidelity.rate import Rate
from cacherl.importers import import_file
from cacherl.jobs import JobState
from cacherl.runtime import Runtime, connect, from_environment, from_home, system
from cacherl.tier import Preset
from cacherl.tool_spec import Annotations
from cacherl.trajectory import Trajectory

POLL_S = 0.5
PRESETS: dict[str, Preset] = {"robust": "robust", "paper": "paper"}


@speaks_plainly
def fidelity(
    record: list[Path] = typer.Option(..., help="Logs to record, in any format that can be imported; may be given several times."),
    replay: list[Path] = typer.Option(..., help="Logs to replay against them; may be given several times."),
    preset: str = typer.Option("robust", help="robust or paper."),
    target_false: float = typer.Option(0.01, help="Bound of false hits ÷ replayed calls that calibration keeps."),
    annotations: Path | None = typer.Option(None, help="JSON object: tool name → annotations."),
    scenario: str | None = typer.Option(
        None, help="Scenario: a field of the records, a JMESPath expression on them, or one name for all; default: what the importer says."
    ),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Record some logs in a throw-away cache, replay others against it, and say how often it answers and how often wrongly."""
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}; choose robust or paper")
    if not 0 < target_false < 1:
        raise UsageError("--target-false lies between 0 and 1")
    given = read_annotations(annotations) if annotations is not None else {}
    recorded, replayed = _imported(record, scenario), _imported(replay, scenario)

    async def run(runtime: Runtime) -> FidelityReport:
        async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
            found = await measure(
                client, recorded, replayed, preset=PRESETS[preset], target_false=target_false, annotations=given, tell=_tell
            )
        return found.report()

    with running(home) as runtime:
        report = asyncio.run(run(runtime))
    print_json(report) if as_json else _print(report)


@speaks_plainly
def calibrate(
    cache: str,
    target_false: float = typer.Option(0.01, help="Bound of false hits ÷ replayed calls."),
    plot: Path | None = typer.Option(None, help="Draw the curve of coverage and false hits to this file (.png, .svg, .pdf)."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Replay a cache against itself: its tools get the tiers that they have earned, its hits their fidelity."""
    if not 0 < target_false < 1:
        raise UsageError("--target-false lies between 0 and 1")

    async def run(runtime: Runtime) -> Calibration:
        async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
            found = await client.calibrate(cache, CalibrationCreate(target_false=target_false))
            while not found.state.final:
                await asyncio.sleep(POLL_S)
                found = await client.calibration(cache, found.id)
                _tell(f"{found.progress.done:.0f} of {found.progress.total or 0:.0f} steps")
        if found.state is not JobState.SUCCEEDED:
            raise ServiceError(f"the calibration of {cache} ended as {found.state}")
        return found

    _show(asyncio.run(run(connect(home))), plot, as_json)


@speaks_plainly
def calibration(
    cache: str,
    plot: Path | None = typer.Option(None, help="Draw the curve of coverage and false hits to this file (.png, .svg, .pdf)."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """What a cache's last calibration found."""

    async def run(runtime: Runtime) -> Calibration:
        async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
            page = await client.calibrations(cache)
        if not page.items:
            raise NotFoundError(f"the cache {cache} was never calibrated", slug="no-such-calibration")
        return page.items[0]

    _show(asyncio.run(run(connect(home))), plot, as_json)


def _show(found: Calibration, plot: Path | None, as_json: bool) -> None:
    if plot is not None:
        try:
            from cacherl.report.calibration import draw  # noqa: PLC0415  (matplotlib is an extra)
        except ImportError as error:
            raise UsageError("plots need matplotlib: install cacherl[report]") from error
        draw(found, plot)
        typer.echo(f"{plot} written", err=True)
    if as_json:
        print_json(found)
        return
    floor = "nothing to compare" if found.noise_floor is None else f"{found.noise_floor:.2%}"
    typer.echo(f"calibration {found.id}: {found.state}, revision {found.revision}; noise floor: {floor}")
    print_table(
        ["pool", "tier", "tools", "calls", "tasks", "false", "bound", "threshold", "tasks needed"],
        [
            [
                p.pool,
                p.tier,
                *map(str, (p.tools, p.calls, p.tasks, p.false_hits)),
                f"{p.bound:.2%}",
                _maybe(p.threshold),
                _maybe(p.n_required),
            ]
            for p in found.pools
        ],
    )
    print_table(
        ["tool", "tier", "calls", "false", "fidelity", "threshold"],
        [[t.tool, t.tier, str(t.calls), str(t.false_hits), f"{t.fidelity:.3f}", _maybe(t.threshold)] for t in found.tools if t.earned],
    )


def _maybe(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def read_annotations(path: Path) -> dict[str, Annotations]:
    """Annotations by tool name. Errors: `UsageError` where the file is not such an object."""
    try:
        return TypeAdapter(dict[str, Annotations]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path} is not a JSON object of annotations by tool name: {where}: {first['msg']}") from error


def _imported(paths: list[Path], scenario: str | None) -> list[Trajectory]:
    out: list[Trajectory] = []
    for path in paths:
        found = import_file(path, scenario=scenario)
        out += found
        for problem in found.problems:
            typer.echo(f"{path}: refused: {problem.detail}", err=True)
    return out


@contextmanager
def running(home: Path) -> Iterator[Runtime]:
    """The system that is told of in the environment or runs in `home`, else one of its own in a folder that goes with it."""
    found = from_environment() or from_home(home)
    if found is not None:
        yield found
        return
    need_checkout("services", "cache fidelity")
    folder = Path(tempfile.mkdtemp(prefix="cacherl-fidelity-"))
    folder.chmod(0o711)  # the database's account passes through it
    try:
        _tell("starting the embedded system")
        with system(folder / "system") as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_last = [""]


def _tell(line: str) -> None:
    """Progress, on standard error; a line that says the same again is left out."""
    if line != _last[0]:
        _last[0] = line
        typer.echo(line, err=True)


def _print(report: FidelityReport) -> None:
    rates: dict[str, Rate] = {
        "exact": report.tiers.exact,
        "fuzzy": report.tiers.fuzzy,
        "best_effort": report.tiers.best_effort,
        "all": report.totals,
        "plain key": report.plain_key,
    }
    rows: list[list[str]] = []
    for name, found in rates.items():
        low, high = found.interval
        rows.append(
            [name, f"{found.hits} ({found.hit_rate:.1%})", str(found.false_hits), f"{found.false_hit_rate:.2%} [{low:.2%}, {high:.2%}]"]
        )
    print_table(["tier", "hits", "false", "false ÷ hits [95 %]"], rows)
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.items())
    typer.echo(f"{report.totals.calls} calls, {report.misses} misses; false hits: {kinds or 'none'}")
    for pool in report.unearned:
        typer.echo(f"fuzzy is not earned for {pool.pool}: {pool.tasks} tasks, {pool.n_required} needed")
