"""Writes `report.json` and `report.html` into a run's folder."""

from pathlib import Path

from cacherl.files import write_atomically
from cacherl.report.html import html
from cacherl.report.model import Report


def write(report: Report, out: Path) -> None:
    """Both files, each whole or not at all."""
    write_atomically(out / "report.json", report.model_dump_json(indent=1, by_alias=True).encode())
    write_atomically(out / "report.html", html(report, next_steps=_next_steps(report, out)).encode())


def _next_steps(report: Report, out: Path) -> list[str]:
    steps = [f"The episodes, one a line: {out}/episodes; check them with `cacherl rollout verify FILE`."]
    if report.training_tiers.get("miss", 0) > 0.05:
        steps.append("Misses cost trust: `cacherl cache coverage NAME` lists the calls to record next.")
    unearned = [str(row["tool"]) for row in report.cache.calibration if not row.get("earned") and row.get("n_required")]
    if unearned:
        steps.append(f"Tiers that are not earned yet: {', '.join(sorted(set(unearned))[:6])}. More recorded tasks earn them.")
    steps.append(
        "Another model, endpoint or teacher: the plan's fields are in `cacherl/pipeline/plan.py`; run one with `cacherl run --plan`."
    )
    return steps
