"""The report of what is in logs, `cacherl.inspect/1`."""

from pathlib import Path

import pytest

from cacherl.errors import DataError
from cacherl.inspect_data import InspectReport, inspect

SAMPLES = Path(__file__).parents[1] / "data"
FILES = [SAMPLES / "openai_chat.jsonl", SAMPLES / "cacherl.jsonl", SAMPLES / "bfcl" / "executed_sample.jsonl"]


def test_the_shape_is_the_contracts():
    report = inspect(FILES).model_dump(mode="json")
    assert report["schema"] == "cacherl.inspect/1"
    assert list(report) == ["schema", "files", "totals", "tools", "coverage"]
    assert list(report["files"][0]) == ["path", "format", "why", "records", "imported", "repaired", "refused", "reasons"]
    assert list(report["totals"]) == ["records", "imported", "repaired", "refused", "trajectories", "calls", "tools", "errors"]
    assert list(report["tools"][0]) == ["name", "calls", "errors", "keys", "conflicting_keys", "annotations"]
    assert InspectReport.model_validate(report).model_dump(mode="json") == report


def test_counts_add_up():
    report = inspect(FILES)
    for file in report.files:
        assert file.records == file.imported + file.repaired + file.refused
    for name in ("records", "imported", "repaired", "refused"):
        assert getattr(report.totals, name) == sum(getattr(file, name) for file in report.files)
    assert report.totals.trajectories == report.totals.imported + report.totals.repaired
    assert report.totals.calls == sum(tool.calls for tool in report.tools)
    assert report.totals.tools == len(report.tools)
    assert report.totals.errors == sum(tool.errors for tool in report.tools) == 2


def test_keys_conflicts_and_coverage():
    report = inspect([SAMPLES / "openai_chat.jsonl"])
    found = {tool.name: tool for tool in report.tools}["shop.find_order"]
    assert (found.calls, found.errors, found.keys, found.conflicting_keys) == (12, 2, 3, 1), "shop-1 is another scenario"
    assert found.annotations.mutating is False
    assert {tool.name: tool for tool in report.tools}["shop.cancel_order"].annotations.mutating is True
    assert report.coverage.scenarios == 2
    assert 0 < report.coverage.repeated_share < 1


def test_a_file_that_nobody_knows_does_not_hide_the_others(tmp_path: Path):
    odd = tmp_path / "odd.txt"
    odd.write_text("hello\n")
    report = inspect([odd, FILES[1]])
    first, second = report.files
    assert (first.format, first.records, first.refused, first.reasons) == ("unknown", 1, 1, {"unknown-format": 1})
    assert second.format == "cacherl"
    for alone in ([odd], [tmp_path / "absent"], [FILES[1], tmp_path / "absent"]):
        with pytest.raises(DataError):
            inspect(alone)


def test_an_array_that_breaks_off_costs_one_record(tmp_path: Path):
    path = tmp_path / "cut.json"
    whole = (SAMPLES / "tau_bench" / "m1-shop_runs.json").read_text()
    path.write_text(whole[: len(whole) // 2])
    (file,) = inspect([path]).files
    assert (file.records, file.imported, file.refused, file.reasons) == (2, 1, 1, {"not-json": 1})
    assert "broken off" in file.why


def test_nothing_is_an_empty_report():
    report = inspect([])
    assert (report.totals.records, report.coverage.repeated_share) == (0, 0.0)
