"""Scores and advantages of stored episodes, without a service: the same pure functions that the reward service calls.

    python examples/loop_in_memory.py --out runs/examples/shop.episodes.jsonl
    python examples/score_offline.py runs/examples/shop.episodes.jsonl [--preset paper]

`total` mixes the answer and the process. `trust` (ρ) is the least fidelity of the episode's calls: a miss takes it to 0, and with it what a
good answer can earn. `blame` (β) says how much of a bad answer is the policy's own fault. The advantage is what training would use.
"""
# ruff: noqa: T201  (an example prints)

import argparse
from collections import defaultdict
from pathlib import Path

from cacherl.advantages import advantages
from cacherl.api.reward import Group
from cacherl.episodes_file import read_episodes
from cacherl.reward import facts_verdict, preset_config, score
from cacherl.score import Score


def main() -> None:
    """Reads a file, scores every episode, and prints one line for each."""
    parser = argparse.ArgumentParser(description="Scores and advantages of stored episodes.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--preset", choices=["robust", "paper"], default="robust")
    options = parser.parse_args()
    config = preset_config(options.preset)
    episodes, tasks = read_episodes(options.file)
    groups: defaultdict[tuple[str, int], list[Score]] = defaultdict(list)
    for episode in episodes:
        task = tasks.get(episode.task)
        groups[episode.rollout, episode.group].append(score(episode, task, facts_verdict(episode, task), config))

    found = advantages([Group(task_id=str(group), scores=scores) for (_, group), scores in groups.items()], config)
    print(f"{config.preset}, estimator {found.estimator}")
    print("status      answer  process  trust  blame   total  advantage")
    for scores, group in zip(groups.values(), found.groups, strict=True):
        for one, advantage in zip(scores, group.advantages, strict=True):
            numbers = [one.r_answer, one.r_process, one.trust, one.blame, one.total, advantage]
            print(f"{one.status:10}" + "".join(f"{'–' if number is None else format(number, '.3f'):>8}" for number in numbers))


if __name__ == "__main__":
    main()
