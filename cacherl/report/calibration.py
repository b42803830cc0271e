"""The curve of a calibration as a picture: how much is answered, and how much of it wrongly, with the 95 % bound (needs matplotlib)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cacherl.api.cache import Calibration
from cacherl.api.cache_calibration import CurvePoint
from cacherl.errors import UsageError
from cacherl.report.plots import BLUE, GREEN, GREY

__all__ = ["draw"]

FORMATS = {".png", ".svg", ".pdf"}


def draw(found: Calibration, path: Path) -> None:
    """Writes the picture; its ending says in which format. Errors: `UsageError` for another ending, or without a replayed call."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a plot ends in {', '.join(sorted(FORMATS))}")
    if not found.curve:
        raise UsageError(f"the calibration {found.id} replayed no call: there is nothing to draw")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cacherl", "font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _coverage(left, found)
        _fidelity(right, found)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _coverage(axes: Axes, found: Calibration) -> None:
    for points, colour, name in ((found.curve, BLUE, "fuzzy"), (found.best_effort_curve, GREEN, "best effort")):
        axes.plot(*_line(points, lambda p: p.false_hit_rate), "o-", color=colour, markersize=3, label=f"{name}: false")
        axes.plot(*_line(points, lambda p: p.bound), ":", color=colour, label=f"{name}: 95 % bound")
    if found.noise_floor is not None:
        axes.axhline(100 * found.noise_floor, color=GREY, linewidth=0.8, label="noise floor")
    first, last = found.curve[0], found.curve[-1]
    for point in (first, last):
        axes.annotate(f"{point.threshold:g}", (100 * point.coverage, 100 * point.false_hit_rate), textcoords="offset points", xytext=(4, 4))
    axes.set_xlabel("replayed calls that are answered, %")
    axes.set_ylabel("replayed calls that are answered wrongly, %")
    axes.set_title("From the strictest threshold to the loosest")
    axes.legend(frameon=False)


def _line(points: Sequence[CurvePoint], value: Callable[[CurvePoint], float]) -> tuple[list[float], list[float]]:
    return [100 * point.coverage for point in points], [100 * value(point) for point in points]


def _fidelity(axes: Axes, found: Calibration) -> None:
    drawn = False
    for tool in found.tools:
        if tool.tier == "exact" or not tool.steps:
            continue
        places = [step.similarity for step in tool.steps] + [1.0]
        values = [step.fidelity for step in tool.steps]
        colour = BLUE if tool.tier == "fuzzy" else GREEN
        axes.step(places, [*values, values[-1]], where="post", color=colour, alpha=0.9 if tool.earned else 0.25, linewidth=1.2)
        drawn = True
    axes.set_xlabel("similarity (fuzzy: likeness of texts, blue; best effort: cosine, green)")
    axes.set_ylabel("fidelity")
    axes.set_ylim(0, 1.02)
    axes.set_title("Fidelity by tool; pale where nothing was earned" if drawn else "No tool has a call that is like another one")
