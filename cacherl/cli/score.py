"""`cacherl score`: re-score stored episodes offline, under any configuration, without a service."""

from pathlib import Path

import typer

from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import JsonOption
from cacherl.episodes_file import read_episodes
from cacherl.errors import UsageError
from cacherl.reward import facts_verdict
from cacherl.reward import score as score_episode
from cacherl.score import RewardConfig


@speaks_plainly
def score(
    file: Path = typer.Argument(help="*.episodes.jsonl or *.episodes.jsonl.zst, with its tasks."),
    preset: str = typer.Option("robust", help="robust or paper."),
    as_json: bool = JsonOption,
) -> None:
    """Score the episodes of a file with the deterministic judge."""
    if preset not in ("robust", "paper"):
        raise UsageError(f"there is no preset {preset!r}; choose robust or paper")
    config = RewardConfig(preset=preset)
    episodes, tasks = read_episodes(file)
    scores = [score_episode(e, tasks.get(e.task), facts_verdict(e, tasks.get(e.task)), config) for e in episodes]
    if as_json:
        print_json({"schema": "cacherl.scores/1", "config_hash": config.config_hash, "scores": [s.model_dump(mode="json") for s in scores]})
        return
    rows = [[s.episode_id, str(s.status), _number(s.total), _number(s.r_answer), _number(s.r_process), f"{s.trust:.2f}"] for s in scores]
    print_table(["episode", "status", "total", "answer", "process", "trust"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
