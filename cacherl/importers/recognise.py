"""Which format a log file is in, by its content, and the import of a file.

The first record that is JSON decides. Formats that this release cannot read are named in the refusal, not taken for something else.
"""

from itertools import islice
from pathlib import Path
from typing import Any

from cacherl.errors import DataError, UsageError
from cacherl.importers.bfcl import BfclImporter
from cacherl.importers.cacherl import CacherlImporter
from cacherl.importers.livemcpbench import LiveMCPBenchImporter
from cacherl.importers.nemo_gym import NeMoGymImporter
from cacherl.importers.openai_chat import OpenAIChatImporter
from cacherl.importers.records import records
from cacherl.importers.result import Importer, ImportResult
from cacherl.importers.scenario import Scenario
from cacherl.importers.tau_bench import TauBenchImporter
from cacherl.importers.workbench import WorkBenchImporter

__all__ = ["FORMATS", "import_file", "recognise"]

IMPORTERS: tuple[type[Importer], ...] = (
    CacherlImporter,
    TauBenchImporter,
    WorkBenchImporter,
    BfclImporter,
    LiveMCPBenchImporter,
    NeMoGymImporter,
    OpenAIChatImporter,
)
"""In the order in which they are asked: the most particular first."""
FORMATS = {importer.name: importer for importer in IMPORTERS}
_LOOKED_AT = 50


def recognise(path: str | Path) -> tuple[str, str]:
    """(format, why). Raises `DataError`: `unknown-format`, or `format-of-a-later-release` for those that are known and not read yet."""
    path = Path(path)
    value = _first_value(path)
    later = _later(value)
    if later:
        raise DataError(f"{path}: this is {later}, a format that this release does not read", line=1, slug="format-of-a-later-release")
    for importer in IMPORTERS:
        why = importer.recognise(value)
        if why:
            return importer.name, why
    raise DataError(f"{path}: no known format; the first record has the fields {sorted(value)[:12]}", line=1, slug="unknown-format")


def import_file(path: str | Path, format: str = "auto", scenario: str | None = None) -> ImportResult:
    """The trajectories of a file. `scenario` overrides what the importer would say: a field, an expression or one name (`scenario.py`).

    Raises `DataError` for a file that cannot be read or recognised, `UsageError` for a format that does not exist. Single records that
    cannot be read are counted and reported in the result.
    """
    path = Path(path)
    if format == "auto":
        format, why = recognise(path)
    elif format in FORMATS:
        why = "as told"
    else:
        raise UsageError(f"no format {format!r}; there are {', '.join(FORMATS)} and auto")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    told = Scenario(scenario, _first_value(path)) if scenario is not None else None
    constant = told.constant if told is not None else None
    return ImportResult(path, FORMATS[format](path, constant), why, records(path), told)


def _first_value(path: Path) -> dict[str, Any]:
    problem: DataError | None = None
    for record in islice(records(path), _LOOKED_AT):
        if isinstance(record.value, dict):
            return record.value
        problem = problem or record.problem
    told = f"; {problem.detail}" if problem else ""
    line = problem.line if problem else 1
    raise DataError(f"{path}: no record that is a JSON object{told}", line=line, slug="unknown-format")


def _later(value: dict[str, Any]) -> str | None:
    """The name of a format that a later release reads."""
    first = next(iter(value.values()), None)
    signs = {
        "a CacheRL episodes file (read it with the rollout tools)": str(value.get("schema", "")).startswith("cacherl."),
        "a Toucan row": "messages" in value and {"available_tools", "subset_name"} & value.keys() != set(),
        "Toucan's tool schemas": {"server_name", "tools"} <= value.keys(),
        "ToolBench's answer tree": "answer_generation" in value,
        "StableToolBench's predictions": isinstance(first, dict) and {"query", "available_tools", "answer"} <= first.keys(),
    }
    return next((name for name, seen in signs.items() if seen), None)
