"""The report's pictures, as SVG: where people look rather than read. Colours are told apart without colour vision (Okabe and Ito 2008)."""

import io
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any, Literal

import matplotlib

matplotlib.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cacherl.intervals import Ci
from cacherl.report.model import Report
from cacherl.report.notes import METRICS, NAMES

BLUE, ORANGE, GREEN, YELLOW, SKY, RED, PINK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#F0E442",
    "#56B4E9",
    "#D55E00",
    "#CC79A7",
    "#8a8a8a",
)
TIER_COLOURS = {"exact": BLUE, "fuzzy": SKY, "best_effort": GREEN, "miss": ORANGE, "unknown_tool": PINK, "malformed": RED}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cacherl",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}


def plots(report: Report) -> dict[str, str]:
    """SVG texts by name; a picture that has nothing to show is left out."""
    drawn: dict[str, Callable[[Axes, Report], bool]] = {
        "success": _success,
        "pairs": _pairs,
        "training": _training,
        "tiers": _tiers,
        "loss": _loss,
        "curve": _curve,
        "time": _time,
    }
    sizes = {"pairs": (7.6, 0.34 * max(len(report.paired), 4) + 0.9), "time": (7.6, 0.28 * max(len(report.time_s.spans), 4) + 0.8)}
    found = {}
    for name, draw in drawn.items():
        svg = _draw(draw, report, sizes.get(name, (7.6, 3.2)))
        if svg is not None:
            found[name] = svg
    return found


def _draw(draw: Callable[[Axes, Report], bool], report: Report, size: tuple[float, float]) -> str | None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        if not draw(figure.subplots(), report):
            return None
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("?>")[2].partition(">")[2].strip()


def _success(axes: Axes, report: Report) -> bool:
    series: list[tuple[str, str, str]] = [
        ("success", "live, sampled", BLUE),
        ("success_greedy", "live, greedy", ORANGE),
        ("cached_success", "cached, sampled", GREY),
    ]
    rows = list(report.policies.items())
    shown = False
    for number, (field, label, colour) in enumerate(series):
        points = [(i, getattr(row, field)) for i, (_, row) in enumerate(rows) if getattr(row, field) is not None]
        if points:
            shown = True
            xs = [i + (number - 1) * 0.26 for i, _ in points]
            _bars(axes, xs, [ci for _, ci in points], colour, label)
    axes.set_xticks(range(len(rows)), ["\n".join(wrap(NAMES[row], 14)) for row, _ in rows])
    axes.set_ylim(0, 1)
    axes.set_ylabel("success, 95 % interval")
    _legend(axes, loc="upper left")
    axes.grid(axis="x", visible=False)
    return shown


def _legend(axes: Axes, *, loc: Literal["best", "upper left"] = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, ncols=3, loc=loc)


def _bars(axes: Axes, xs: Sequence[float], found: Sequence[Ci], colour: str, label: str) -> None:
    errors = [[ci.mean - ci.low for ci in found], [ci.high - ci.mean for ci in found]]
    axes.bar(xs, [ci.mean for ci in found], 0.24, color=colour, label=label, yerr=errors, error_kw={"elinewidth": 1, "capsize": 2})


def _pairs(axes: Axes, report: Report) -> bool:
    for y, pair in enumerate(reversed(report.paired)):
        ci = pair.difference
        colour = GREEN if ci.low > 0 else RED if ci.high < 0 else GREY
        axes.plot([ci.low, ci.high], [y, y], color=colour, linewidth=2)
        axes.plot([ci.mean], [y], "o", color=colour, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(report.paired)), [f"{NAMES[p.a]} − {NAMES[p.b]}: {METRICS[p.metric]}" for p in reversed(report.paired)], fontsize=8
    )
    axes.set_xlabel("difference on the same tasks and seeds, 95 % interval")
    return bool(report.paired)


def _training(axes: Axes, report: Report) -> bool:
    for field, label, colour in (("reward", "total reward", BLUE), ("r_answer", "answer", GREEN), ("trust", "trust ρ", ORANGE)):
        points = [(s["step"], s[field]) for s in report.steps if s.get(field) is not None]
        if points:
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=label, linewidth=1.4)
    axes.set_xlabel("GRPO step")
    axes.set_ylim(0, 1)
    _legend(axes)
    return bool(report.steps)


def _tiers(axes: Axes, report: Report) -> bool:
    steps = [s for s in report.steps if s.get("outcomes")]
    if not steps:
        return False
    totals = [sum(s["outcomes"].values()) or 1 for s in steps]
    names = [name for name in TIER_COLOURS if any(s["outcomes"].get(name) for s in steps)]
    shares = [[s["outcomes"].get(name, 0) / total for s, total in zip(steps, totals, strict=True)] for name in names]
    axes.stackplot([s["step"] for s in steps], shares, labels=names, colors=[TIER_COLOURS[n] for n in names], linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("GRPO step")
    axes.set_ylabel("share of the rollouts' calls")
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", ncols=3, loc="lower left")
    return True


def _loss(axes: Axes, report: Report) -> bool:
    for field, label, colour in (("loss", "training loss", BLUE), ("held_back_loss", "training tasks held back", ORANGE)):
        points = [(s["step"], s[field]) for s in report.losses if s.get(field) is not None]
        if points:
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=label, linewidth=1.3)
    axes.set_yscale("log")
    axes.set_xlabel("SFT step")
    axes.set_ylabel("loss (nats a token)")
    _legend(axes)
    return bool(report.losses)


def _curve(axes: Axes, report: Report) -> bool:
    points = report.cache.curve
    for field, label, colour in (("false_hit_rate", "measured", BLUE), ("bound", "95 % upper bound", ORANGE)):
        found = [(p["coverage"], p[field]) for p in points if p.get(field) is not None]
        if found:
            axes.plot([x for x, _ in found], [y for _, y in found], "o-", color=colour, markersize=3, label=label, clip_on=False)
    axes.set_xlabel("coverage: share of calls answered")
    axes.set_ylabel("false hits ÷ replayed calls")
    axes.set_ylim(0, max([0.001, *(1.1 * p.get("bound", p["false_hit_rate"]) for p in points)]))
    _legend(axes)
    return bool(points)


def _time(axes: Axes, report: Report) -> bool:
    spans: list[dict[str, Any]] = sorted(report.time_s.spans, key=lambda s: s["start"], reverse=True)
    for y, span in enumerate(spans):
        colour = ORANGE if span["label"].startswith("evaluate") else GREEN if span["label"] in ("grpo", "recipe") else BLUE
        axes.barh(y, span["end"] - span["start"], left=span["start"], height=0.62, color=colour)
        axes.text(span["end"], y, f" {span['end'] - span['start']:.0f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(spans)), [s["label"] for s in spans], fontsize=8)
    axes.set_xlabel("seconds since the first job")
    axes.grid(axis="y", visible=False)
    return bool(spans)
