"""The JSON documents of commands that need no service, field by field as the contracts have them."""

import json
from pathlib import Path
from typing import Any

import pytest

from cacherl.episode import Episode
from cacherl.episodes_file import EpisodesWriter, episode_line
from cacherl.score import RewardConfig, Score
from tests.cli.conftest import TASKS, Cli

DATA = Path(__file__).parents[3] / "shared/data"
COUNTS = {"records", "imported", "repaired", "refused"}


def check_inspect(document: dict[str, Any]) -> None:
    """`cacherl.inspect/1`: its fields, and that it adds up."""
    assert document.keys() == {"schema", "files", "totals", "tools", "coverage"}
    assert document["schema"] == "cacherl.inspect/1"
    totals = document["totals"]
    assert totals.keys() == COUNTS | {"trajectories", "calls", "tools", "errors"}
    for file in document["files"]:
        assert file.keys() == COUNTS | {"path", "format", "why", "reasons"}
        assert file["records"] == file["imported"] + file["repaired"] + file["refused"]
        assert sum(file["reasons"].values()) >= file["repaired"] + file["refused"]
    assert {name: sum(file[name] for file in document["files"]) for name in COUNTS} == {name: totals[name] for name in COUNTS}
    for tool in document["tools"]:
        assert tool.keys() == {"name", "calls", "errors", "keys", "conflicting_keys", "annotations"}
        assert tool["conflicting_keys"] <= tool["keys"] <= tool["calls"]
    assert sum(tool["calls"] for tool in document["tools"]) == totals["calls"]
    assert len(document["tools"]) == totals["tools"]
    assert 0 <= document["coverage"]["repeated_share"] <= 1


def test_inspect_says_what_was_imported_repaired_and_refused(cli: Cli, log_file: Path):
    ran = cli("data", "inspect", log_file, "--json")
    assert (ran.code, ran.err) == (0, "")
    check_inspect(ran.document)
    (file,) = ran.document["files"]
    assert (file["format"], file["path"]) == ("openai_chat", str(log_file))
    assert [file[name] for name in ("records", "imported", "repaired", "refused")] == [3, 1, 1, 1]
    assert file["reasons"] == {"arguments-as-object": 1, "no-messages": 1, "repeated-id": 1}
    assert [(tool["name"], tool["calls"], tool["keys"]) for tool in ran.document["tools"]] == [("find_order", 2, 2)]


def test_a_file_that_nobody_knows_does_not_hide_the_others(cli: Cli, log_file: Path, tmp_path: Path):
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n')
    ran = cli("data", "inspect", log_file, tmp_path / "odd.jsonl", "--json")
    check_inspect(ran.document)
    assert [file["format"] for file in ran.document["files"]] == ["openai_chat", "unknown"]


@pytest.mark.parametrize(
    ("path", "records"),
    [
        ("tau_bench_airline/gpt-4o-airline_trajectories.json", 140),
        ("bfcl_v4_multi_turn/executed_base.jsonl", 100),
        ("workbench/trajectories.jsonl", 3360),
    ],
)
def test_inspect_of_public_logs(cli: Cli, path: str, records: int):
    if not (DATA / path).is_file():
        pytest.skip(f"NOT CHECKED: there is no {DATA / path}")
    ran = cli("data", "inspect", DATA / path, "--json")
    assert (ran.code, ran.err) == (0, "")
    check_inspect(ran.document)
    assert ran.document["totals"]["records"] == records


def test_inspect_for_readers_is_a_table(cli: Cli, log_file: Path):
    ran = cli("data", "inspect", log_file)
    assert ran.code == 0
    assert str(log_file) in ran.out
    assert "find_order" in ran.out


def test_verify_of_a_sound_file(cli: Cli, episodes_file: Path):
    ran = cli("rollout", "verify", episodes_file, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.document == {"schema": "cacherl.verify/1", "episodes": 4, "violations": []}


def test_verify_of_a_compressed_file(cli: Cli, tmp_path: Path, played: list[Episode]):
    path = tmp_path / "a.episodes.jsonl.zst"
    with EpisodesWriter(path) as writer:
        writer.write(played, TASKS)
    assert cli("rollout", "verify", path, "--json").document["episodes"] == 4


def test_verify_of_a_broken_file_is_exit_code_1_and_names_what_is_broken(cli: Cli, episodes_file: Path, played: list[Episode]):
    body = json.loads(episode_line(played[0].model_copy(update={"id": "eps_broken"})))
    body["turns"][0]["logprobs"][0] = 0.5
    episodes_file.write_bytes(episodes_file.read_bytes() + json.dumps(body).encode() + b"\n")
    ran = cli("rollout", "verify", episodes_file, "--json")
    assert (ran.code, ran.err) == (1, "")
    assert ran.document["episodes"] == 5
    assert all(violation.keys() == {"episode", "invariant", "index", "detail"} for violation in ran.document["violations"])
    found = {(violation["episode"], violation["invariant"], violation["index"]) for violation in ran.document["violations"]}
    assert found == {("eps_broken", "logprob-not-positive", 0), ("eps_broken", "hash", None)}
    table = cli("rollout", "verify", episodes_file)
    assert table.code == 1
    assert "logprob-not-positive" in table.out


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_score_judges_by_the_tasks_in_the_file(cli: Cli, episodes_file: Path, played: list[Episode], preset: str):
    ran = cli("score", episodes_file, "--preset", preset, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.document.keys() == {"schema", "config_hash", "scores"}
    assert ran.document["schema"] == "cacherl.scores/1"
    assert ran.document["config_hash"] == RewardConfig.model_validate({"preset": preset}).config_hash
    scores = [Score.model_validate(score) for score in ran.document["scores"]]
    assert [(score.episode_id, score.episode_hash, str(score.status)) for score in scores] == [(e.id, e.hash, "scored") for e in played]
    right = {played[index].id: played[index].task_id == "A37" for index in range(4)}
    assert {score.episode_id: score.r_answer for score in scores} == {name: float(found) for name, found in right.items()}


def test_score_without_tasks_says_that_they_are_missing(cli: Cli, tmp_path: Path, played: list[Episode]):
    path = tmp_path / "bare.episodes.jsonl"
    path.write_bytes(b"".join(map(episode_line, played)))
    scores = cli("score", path, "--json").document["scores"]
    assert {(score["status"], *score["reasons"]) for score in scores} == {("unscorable", "task_missing")}
    table = cli("score", path)
    assert table.code == 0
    assert played[0].id in table.out
