"""The whole system at smoke size: logs in, a report out, no tool called live while training, nothing left running."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from cacherl.evaluation import Way
from cacherl.report.model import Report
from cacherl.verify import verify_file

ROOT = Path(__file__).parents[2]
SECONDS = 600  # a loaded machine; a quiet one needs a tenth of it

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


def demo(out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "demo", "--size", "smoke", "--out", str(out), "--json", *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("e2e") / "demo"
    done = demo(out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout), done.stderr


def test_it_prints_one_document_which_is_the_report(run: tuple[Path, dict[str, Any], str]) -> None:
    out, printed, _ = run
    assert printed == json.loads((out / "report.json").read_bytes())
    assert printed["schema"] == "cacherl.report/1"
    assert "<svg" in (out / "report.html").read_text()


def test_every_row_is_there_with_intervals(run: tuple[Path, dict[str, Any], str]) -> None:
    report = Report.model_validate(run[1])
    assert list(report.policies) == ["base", "sft", "sft_continued", "sft_accepted", "grpo", "recipe"]
    for row in report.policies.values():
        for found in (row.success, row.success_greedy, row.cached_success, row.cached_success_in_cache, row.validation_reward):
            assert found is not None
            assert 0 <= found.low <= found.mean <= found.high <= 1
    compared = {(pair.a, pair.b, pair.metric) for pair in report.paired}
    for metric in ("success", "success_greedy"):
        assert {("grpo", "sft", metric), ("grpo", "sft_continued", metric), ("recipe", "sft_accepted", metric)} <= compared


def test_not_one_tool_was_called_live_while_it_trained(run: tuple[Path, dict[str, Any], str]) -> None:
    report = Report.model_validate(run[1])
    assert report.live_calls.while_training == 0
    assert report.live_calls.recorded > 0
    assert report.cost.tokens_trained > 0
    assert report.cost.tokens_sampled > 0


def test_every_episode_keeps_its_invariants(run: tuple[Path, dict[str, Any], str]) -> None:
    files = sorted((run[0] / "episodes").glob("*.episodes.jsonl"))
    assert len(files) == 6 * len(Way)
    for file in files:
        found = verify_file(file)
        assert found.episodes > 0
        assert found.violations == []


def test_nothing_is_left_running(run: tuple[Path, dict[str, Any], str]) -> None:
    out = str(run[0])
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if any(out in part for part in p.info["cmdline"] or [])]
    assert left == []


def test_a_second_run_says_that_it_starts_clean(run: tuple[Path, dict[str, Any], str]) -> None:
    assert "a new run" in run[2]
    state = json.loads((run[0] / "run.json").read_bytes())
    assert state["finished"] is True
