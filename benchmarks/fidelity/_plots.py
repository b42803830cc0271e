"""Pictures of the comparison: hit rate against false answers, a panel for each split."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8a8a8a", "#000000")
COLUMNS = 3
LIMIT = 1.0


def draw(runs: list[dict[str, Any]], folder: Path) -> list[str]:
    """Writes hits-and-false.svg and .png; their names."""
    rows = -(-len(runs) // COLUMNS)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cacherl", "font.size": 8}):
        figure = Figure(figsize=(4.2 * COLUMNS, 3.3 * rows), layout="constrained")
        panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes, run in zip(panels, runs, strict=False):
            _panel(axes, run)
        for axes in panels[len(runs) :]:
            axes.set_axis_off()
        panels[0].legend(frameon=False, fontsize=6, loc="best")
        names = ["hits-and-false.svg", "hits-and-false.png"]
        for name in names:
            figure.savefig(folder / name, dpi=110, metadata={"Date": None} if name.endswith("svg") else None)
    return names


def _panel(axes: Axes, run: dict[str, Any]) -> None:
    rules = {name: rule for name, rule in run["rules"].items() if not name.startswith("GPTCache") and not name.endswith("exact")}
    for number, (name, rule) in enumerate(rules.items()):
        ours = name.startswith("CacheRL robust")
        axes.plot(
            [100 * rule["false_of_calls"]],
            [100 * rule["hit_rate"]],
            "*" if ours else "o",
            color="#D55E00" if ours else COLOURS[number % len(COLOURS)],
            markersize=13 if ours else 5,
            label=name,
            zorder=3 if ours else 2,
        )
    curve = run["gptcache"]
    axes.plot(
        [100 * p["false_of_calls"] for p in curve],
        [100 * p["hit_rate"] for p in curve],
        ".-",
        color="#8a8a8a",
        label="GPTCache, by threshold",
    )
    axes.axvline(LIMIT, color="#8a8a8a", linewidth=0.7, linestyle="--")
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xlim(left=-0.05)
    axes.set_ylim(0, 103)
    axes.set_title(run["split"])
    axes.set_xlabel("answered wrongly, % of all calls")
    axes.set_ylabel("answered, % of all calls")
