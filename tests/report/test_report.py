"""The report says what the evaluations hold: no more, and nothing that its intervals do not allow."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cacherl.api.trainer import Job
from cacherl.engine import PolicyVersion
from cacherl.evaluation import Evaluation, Served, TaskOutcome, Way, WayResult
from cacherl.pipeline.facts import RunFacts
from cacherl.pipeline.names import Names
from cacherl.pipeline.plan import RunPlan
from cacherl.report.build import build
from cacherl.report.html import html
from cacherl.report.model import Report
from cacherl.report.write import write

RATES = {"base": 0.0, "sft": 0.42, "sft_continued": 0.45, "sft_accepted": 0.62, "grpo": 0.63, "recipe": 0.67}
START = datetime(2026, 1, 1, tzinfo=UTC)


def way(rate: float, samples: int, seed: int, *, live: bool) -> WayResult:
    draw = Random(seed)
    values = [[float(draw.random() < rate) for _ in range(samples)] for _ in range(120)]
    tasks: list[TaskOutcome] = [
        TaskOutcome(task_id=f"t{n}", success_K=list(v) if live else [None] * samples, **{field: list(v) for field in FIELDS})
        for n, v in enumerate(values)
    ]
    outcomes = {"exact": 300, "fuzzy": 20, "miss": 40, "malformed": 3}
    return WayResult(
        tasks=tasks,
        episodes=120 * samples,
        failed=0,
        outcomes=outcomes,
        stop_reasons={"final_answer": 120 * samples},
        mean_turns=3.4,
        mean_tokens=61.0,
        seconds=9.0,
    )


FIELDS = ("process_accuracy_K", "call_f1_K", "answer_K", "reward_K")


def evaluation(rate: float, *, live: bool = True) -> Evaluation:
    ways = {Way.CACHED: way(rate, 2, 3, live=live)}
    if live:
        ways |= {Way.LIVE: way(rate, 4, 1, live=True), Way.LIVE_GREEDY: way(min(1, rate + 0.05), 1, 2, live=True)}
    served = {"exact": Served(calls=300, false_hits=1), "fuzzy": Served(calls=20, false_hits=1)} if live else {}
    return Evaluation(
        policy=PolicyVersion(name="p", version=1), ways=ways, served=served, live_calls=900, tokens_sampled=20_000, seconds=30
    )


def job(kind: str, spec: dict[str, Any], began: float, took: float, result: dict[str, Any] | None = None) -> Job:
    return Job.model_validate(
        {
            "id": f"job_{kind}",
            "kind": spec["kind"],
            "state": "succeeded",
            "label": kind,
            "attempt": 1,
            "progress": {"done": 1, "total": 1},
            "spec": spec,
            "depends_on": [],
            "result": result or {},
            "created_at": START.isoformat(),
            "started_at": (START + timedelta(seconds=began)).isoformat(),
            "finished_at": (START + timedelta(seconds=began + took)).isoformat(),
        }
    )


def facts(tmp_path: Path, *, live: bool = True, rows: tuple[str, ...] = tuple(RATES)) -> RunFacts:
    plan = RunPlan(name="demo", logs=[tmp_path / "a.jsonl"], rows=list(rows), live_server="town" if live else None)
    sft = {"kind": "sft", "init_policy": "a", "policy": "b", "datasets": ["c"]}
    grpo = {"kind": "grpo", "init_policy": "a", "policy": "b", "tasks": "t", "cache": "c"}
    steps = [{"step": n, "reward": 0.4 + n / 90, "trust": 0.8, "outcomes": {"exact": 90, "fuzzy": 4, "miss": 9}} for n in range(30)]
    return RunFacts(
        plan=plan,
        names=Names(prefix="demo-1"),
        data={"trajectories": 4320, "calls": 14_000, "tools": 17, "sha256": "0" * 64, "flaws": "habit .65"},
        caches={"train": {"stored": 12_000}, "validation": {"stored": 2000}},
        calibration={"train": {"curve": [{"threshold": 0.9, "coverage": 0.7, "false_hit_rate": 0.0}], "tools": []}},
        jobs={
            "sft": job("sft", sft, 0, 250, {"cpu_seconds": 250, "tokens_trained": 4_000_000}),
            "grpo": job("grpo", grpo, 250, 170, {"cpu_seconds": 170, "tokens_sampled": 400_000}),
        },
        evaluations={row: evaluation(RATES[row], live=live) for row in rows},
        live_counts={"before": 5, "after_training": 5, "after_evaluation": 905} if live else {},
        grpo_steps={"grpo": steps},
        sft_steps={"sft": [{"step": n, "loss": 3 / (n + 1)} for n in range(1, 50)]},
        seconds={"import": 4.0, "sft": 250.0},
    )


def test_it_holds_every_row_with_intervals_and_the_fixed_pairs(tmp_path: Path) -> None:
    report = build(facts(tmp_path), install_s=12.0, total_s=700.0)
    assert list(report.policies) == list(RATES)
    success = report.policies["grpo"].success
    assert success is not None
    assert success.low < success.mean < success.high
    assert (success.n, success.seeds) == (120, 4)
    assert {(p.a, p.b) for p in report.paired} >= {("grpo", "sft"), ("grpo", "sft_continued"), ("recipe", "sft_accepted")}
    assert sum(report.tiers.values()) == pytest.approx(1)
    assert report.live_calls.while_training == 0
    assert report.live_calls.evaluating == 900
    assert report.cache.false_hit_rate == pytest.approx(12 / (320 * 6), rel=0.01)
    assert report.cost.compute_s == 420


def test_a_claim_is_made_only_where_the_interval_allows_it(tmp_path: Path) -> None:
    report = build(facts(tmp_path), install_s=None, total_s=700.0)
    headline = [pair for pair in report.paired if pair.metric.startswith("success")]
    assert len(report.notes) >= len(headline)
    for pair, note in zip(headline, report.notes, strict=False):
        assert f"{pair.difference.mean:+.3f} [{pair.difference.low:+.3f}" in note
        assert ("is above" in note) == (pair.difference.low > 0)
        assert ("is below" in note) == (pair.difference.high < 0)
        assert ("cannot be told from" in note) == (pair.difference.low <= 0 <= pair.difference.high)


def test_real_logs_have_no_live_success_and_say_why(tmp_path: Path) -> None:
    report = build(facts(tmp_path, live=False, rows=("base", "sft", "grpo")), install_s=None, total_s=60.0, live_away="no live tools")
    assert report.policies["grpo"].success is None
    assert report.live_calls.while_training is None
    assert report.cache.against == "held-out recordings"
    assert any("null" in note and "no live tools" in note for note in report.notes)


def test_the_page_stands_alone_and_the_json_can_be_read_back(tmp_path: Path) -> None:
    report = build(facts(tmp_path), install_s=12.0, total_s=700.0)
    write(report, tmp_path)
    assert Report.model_validate_json((tmp_path / "report.json").read_bytes()) == report
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 7
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "")
    assert "<script" not in page


def test_names_from_the_data_are_escaped(tmp_path: Path) -> None:
    found = facts(tmp_path)
    row = {"tool": "<script>alert(1)</script>", "tier": "fuzzy", "calls": 1, "tasks": 1, "false_hits": 0, "fidelity": 0.5}
    found.calibration["train"]["tools"] = [{**row, "earned": False, "threshold": None, "n_required": 300, "within_task": False}]
    page = html(build(found, install_s=None, total_s=1.0), next_steps=[])
    assert "<script>" not in page
