"""How a model family writes its thinking and its calls: one file per family, found by name.

A format owns the markers of its text and the strict parser of a sampled turn; its chat template stands beside it (`<name>.jinja`) and is
the one that SFT, rollouts and serving use. A parser never repairs: what does not fit is a malformed call with a readable reason.
"""

from importlib.resources import files

from cacherl.errors import UsageError
from cacherl.tool_formats.parsed import ParsedCall, ParsedTurn, ToolFormat
from cacherl.tool_formats.qwen import Qwen

__all__ = ["FORMATS", "ParsedCall", "ParsedTurn", "ToolFormat", "of_name", "of_template", "template"]

FORMATS: dict[str, ToolFormat] = {"qwen": Qwen()}


def of_name(name: str) -> ToolFormat:
    """The format of that name; UsageError for an unknown one."""
    if name not in FORMATS:
        raise UsageError(f"no tool format {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name]


def of_template(text: str) -> ToolFormat:
    """The format whose markers a chat template writes; UsageError where none fits."""
    for known in FORMATS.values():
        if all(marker in text for marker in known.markers):
            return known
    raise UsageError("the chat template writes calls in no known format (cacherl/tool_formats): use one of the templates there")


def template(name: str) -> str:
    """The chat template of a format, as text."""
    of_name(name)
    return (files("cacherl.tool_formats") / f"{name}.jinja").read_text(encoding="utf-8")
