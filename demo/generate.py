"""Writes the demo's data: `python -m demo.generate --out DIR`.

    train.trajectories.jsonl        every recording of the training towns: the demonstrations
    train.tasks.jsonl               their tasks, with the world's references
    cache.trajectories.jsonl        the recordings that the training cache gets: those of `unrecorded` tasks are absent
    validation.tasks.jsonl          held-out tasks in held-out towns
    validation.trajectories.jsonl   their recordings, for a cache that training never sees
    manifest.json                   counts, shares, digests, the settings

The same settings write the same bytes. Tasks and trajectories are `cacherl` records, one JSON object a line.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Outcome, Role, Trajectory
from cacherl.wire import Wire
from demo.config import DataSettings
from demo.expert import Step
from demo.flaws import Demonstration, demonstrate
from demo.tasks import Exercise, exercises
from demo.world.town import VALIDATION_FROM

MODEL = "scripted-expert"


def messages(exercise: Exercise, demonstration: Demonstration) -> list[Message]:
    """A demonstration in chat form: question, a turn and a result per call, answer."""
    out = list(exercise.task.messages)
    for index, step in enumerate(demonstration.steps):
        out += _turn(index, step)
    return [*out, Message(role=Role.ASSISTANT, content=demonstration.answer)]


def _turn(index: int, step: Step) -> list[Message]:
    call_id = f"call_{index}"
    call = MessageToolCall(id=call_id, type="function", function=CalledFunction(name=step.tool, arguments=step.arguments))
    return [
        Message(role=Role.ASSISTANT, content=step.because or "", tool_calls=[call]),
        Message(role=Role.TOOL, content=step.content, tool_call_id=call_id, name=step.tool, is_error=step.is_error),
    ]


def trajectory(exercise: Exercise, trial: int, settings: DataSettings) -> Trajectory:
    """One recording as the importers would give it. The flaw stands in the metadata, for the report alone."""
    demonstration = demonstrate(exercise, trial, settings)
    return Trajectory(
        id=f"{exercise.id}/t{trial}",
        messages=messages(exercise, demonstration),
        tools=exercise.task.tools,
        scenario=exercise.town,
        task_id=exercise.id,
        trial=f"t{trial}",
        model=MODEL,
        outcome=Outcome(label=demonstration.verdict.success, source="world"),
        metadata={"kind": exercise.kind, "flaw": demonstration.flaw.value},
    )


def recorded(exercise: Exercise, settings: DataSettings) -> bool:
    """Whether the training cache has the recordings of a task."""
    return Random(f"unrecorded|{settings.seed}|{exercise.id}").random() >= settings.unrecorded


def _write(path: Path, records: Iterable[Wire]) -> dict[str, Any]:
    digest, lines = hashlib.sha256(), 0
    with path.open("wb") as file:
        for record in records:
            line = record.model_dump_json(exclude_unset=True).encode() + b"\n"
            file.write(line)
            digest.update(line)
            lines += 1
    return {"records": lines, "sha256": digest.hexdigest()}


def _shares(trajectories: list[Trajectory]) -> dict[str, Any]:
    """What the report says of a set of recordings: flaws by kind, and how many reached the goal."""
    by_kind: dict[str, Counter[str]] = {}
    for item in trajectories:
        by_kind.setdefault(str(item.metadata["kind"]), Counter())[str(item.metadata["flaw"])] += 1
    total = Counter(str(item.metadata["flaw"]) for item in trajectories)
    turns = [message for item in trajectories for message in item.messages if message.tool_calls]
    return {
        "flaws": {name: round(count / len(trajectories), 4) for name, count in sorted(total.items())},
        "flaws_by_kind": {kind: dict(sorted(counts.items())) for kind, counts in sorted(by_kind.items())},
        "success": round(sum(item.outcome.accepted for item in trajectories) / len(trajectories), 4),
        "calls": len(turns),
        "analytical_turns": round(sum(bool(message.content) for message in turns) / len(turns), 4),
    }


def generate(out: Path, settings: DataSettings) -> dict[str, Any]:
    """Writes all files into `out` and returns the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    train = exercises(settings, 0, settings.towns)
    validation = exercises(settings, VALIDATION_FROM, settings.validation_towns)
    demonstrations = [trajectory(item, trial, settings) for item in train for trial in range(1, settings.trials + 1)]
    present = {item.id for item in train if recorded(item, settings)}
    cached = [item for item in demonstrations if item.task_id in present]
    held_out = {item.id: [trajectory(item, trial, settings) for trial in range(1, settings.validation_trials + 1)] for item in validation}
    recordings = [item for items in held_out.values() for item in items]
    tasks = [item.task.model_copy(update={"exclude_sources": [t.id for t in held_out[item.id]]}) for item in validation]
    manifest = {
        "schema": "cacherl.demo-data/1",
        "settings": settings.model_dump(mode="json"),
        "files": {
            "train.trajectories.jsonl": _write(out / "train.trajectories.jsonl", demonstrations),
            "train.tasks.jsonl": _write(out / "train.tasks.jsonl", [item.task for item in train]),
            "cache.trajectories.jsonl": _write(out / "cache.trajectories.jsonl", cached),
            "validation.tasks.jsonl": _write(out / "validation.tasks.jsonl", tasks),
            "validation.trajectories.jsonl": _write(out / "validation.trajectories.jsonl", recordings),
        },
        "train": _shares(demonstrations),
        "validation": _shares(recordings),
        "unrecorded_tasks": len(train) - len(present),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def main(argv: list[str] | None = None) -> int:
    """The command: writes the data and prints the counts on standard error."""
    parser = argparse.ArgumentParser(prog="python -m demo.generate", description="Write the demo's tasks and recordings.")
    defaults = DataSettings()
    parser.add_argument("--out", type=Path, required=True, help="the directory to write into")
    parser.add_argument("--towns", type=int, default=defaults.towns, help="training towns (18 tasks each)")
    parser.add_argument("--validation-towns", type=int, default=defaults.validation_towns, help="held-out towns")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    arguments = parser.parse_args(argv)
    settings = DataSettings(towns=arguments.towns, validation_towns=arguments.validation_towns, seed=arguments.seed)
    manifest = generate(arguments.out, settings)
    for name, file in manifest["files"].items():
        sys.stderr.write(f"{name}: {file['records']} records\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
