"""The report as one HTML file that needs nothing else: figures, tables, notes, where to look next."""

from importlib import resources

import jinja2
from markupsafe import Markup

from cacherl.report.model import Report
from cacherl.report.notes import METRICS, NAMES
from cacherl.report.plots import plots


def html(report: Report, *, next_steps: list[str]) -> str:
    """The page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["ci"] = _ci
    template = environment.from_string(resources.files("cacherl.report").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(report=report, plots=plots(report), names=NAMES, metrics=METRICS, next_steps=next_steps)


def _ci(value: object) -> Markup | str:
    if value is None:
        return "–"
    mean, low, high = (getattr(value, field) for field in ("mean", "low", "high"))
    return Markup("<b>{:.3f}</b><br><small>{:.3f}–{:.3f}</small>").format(mean, low, high)
