"""Logs become datasets and caches."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cacherl.api.cache import CacheCreate, CacheSettings, CalibrationCreate, EntryLine, Ingested
from cacherl.api.trainer import Dataset, DatasetCreate, DatasetKind
from cacherl.client import Client
from cacherl.errors import DataError, ServiceError
from cacherl.importers import import_file
from cacherl.jobs import JobState
from cacherl.pipeline.plan import RunPlan
from cacherl.recordings import entry_lines
from cacherl.tasks import split, tasks_from
from cacherl.tool_spec import Annotations, Function, ToolSpec
from cacherl.trajectory import Task, Trajectory
from cacherl.wire import Wire

PART_BYTES = 4 << 20
Report = Callable[[str], None]


class Corpus:
    """The logs of a run, imported: what is trained on, what is held out."""

    def __init__(self, plan: RunPlan) -> None:
        self.train = [t for path in plan.logs for t in import_file(path, format=plan.format, scenario=plan.scenario)]
        self.held_out: list[Trajectory]
        if plan.validation_tasks is not None:
            self.held_out = [t for path in plan.validation_logs for t in import_file(path)]
            self.validation = read_tasks(plan.validation_tasks)
        else:
            self.train, self.held_out = _halves(self.train, plan)
            self.validation = [_without_own(task, self.held_out) for task in tasks_from(self.held_out)]
        self.tasks = read_tasks(plan.tasks) if plan.tasks is not None else list(tasks_from(self.train))
        if not self.train or not self.tasks or not self.validation:
            raise DataError("the logs hold no trajectory with a tool call to train on, or none is left to validate on")

    def describe(self) -> dict[str, Any]:
        """Counts for the report."""
        digest = hashlib.sha256()
        for trajectory in self.train:
            digest.update(trajectory.model_dump_json().encode())
        calls = [m.function.name for t in self.train for message in t.messages for m in message.tool_calls]
        return {
            "trajectories": len(self.train),
            "calls": len(calls),
            "tools": len(set(calls)),
            "sha256": digest.hexdigest(),
            "labelled_true": sum(t.outcome.accepted for t in self.train),
            "tasks": len(self.tasks),
            "validation_tasks": len(self.validation),
            "validation_trajectories": len(self.held_out),
        }


def read_tasks(path: Path) -> list[Task]:
    """Task lines. Errors: `DataError` naming the line."""
    tasks = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            tasks.append(Task.model_validate_json(line))
        except ValueError as error:
            raise DataError(f"{path}:{number} is not a task: {error}", line=number) from error
    return tasks


async def dataset(client: Client, name: str, kind: DatasetKind, records: Iterable[Wire], key: str) -> Dataset:
    """Uploads records as a dataset of normalised lines."""
    created = await client.trainer.create_dataset(DatasetCreate(name=name, kind=kind, format="cacherl"), key=key)
    if created.state == "ready":
        return created
    return await client.trainer.upload(created.id, _parts(records))


async def cache(
    client: Client, name: str, plan: RunPlan, lines: Iterable[EntryLine], corpus: list[Trajectory], live: str | None = None
) -> Ingested:
    """Creates a cache with the logs' tools and records `lines` in it."""
    tools = tool_specs(corpus, plan.annotations)
    preset = plan.grpo.get("preset", "robust")
    settings = CacheSettings(preset=preset, live_server=live)
    await client.cache.create(CacheCreate(name=name, settings=settings, tools=tools), key=f"create-{name}")
    return await client.cache.ingest(name, lines, batch=f"{name}-logs")


def tool_specs(corpus: Iterable[Trajectory], given: Mapping[str, Annotations]) -> list[ToolSpec]:
    """The tools of the logs, told what is given of them; a tool that the logs call without a schema is known by what is given alone."""
    specs = {spec.name: spec for trajectory in corpus for spec in trajectory.tools}
    for name, annotations in given.items():
        spec = specs.get(name) or ToolSpec(function=Function(name=name))
        own = spec.annotations
        told: dict[str, Any] = {field: getattr(annotations, field) for field in annotations.model_fields_set - {"inferred"}}
        told["inferred"] = {field: why for field, why in own.inferred.items() if field not in told}
        specs[name] = spec.model_copy(update={"annotations": own.model_copy(update=told)})
    return list(specs.values())


def training_lines(corpus: Corpus, plan: RunPlan) -> Iterator[EntryLine]:
    """The training cache's recordings."""
    recorded = [t for path in plan.cache_logs for t in import_file(path)] if plan.cache_logs else corpus.train
    return (line for trajectory in recorded for line in entry_lines(trajectory))


def held_out_lines(corpus: Corpus) -> Iterator[EntryLine]:
    """The validation cache's recordings."""
    return (line for trajectory in corpus.held_out for line in entry_lines(trajectory))


async def calibrate(client: Client, name: str, target_false: float, report: Report) -> dict[str, Any]:
    """Calibrates a cache against itself and waits for the evidence."""
    calibration = await client.cache.calibrate(name, CalibrationCreate(target_false=target_false))
    while not calibration.state.final:
        await asyncio.sleep(0.2)
        calibration = await client.cache.calibration(name, calibration.id)
        report(f"{calibration.progress.done:.0f} of {calibration.progress.total or 0:.0f} recordings")
    if calibration.state is not JobState.SUCCEEDED:
        raise ServiceError(f"the calibration of cache {name} ended as {calibration.state}")
    return calibration.model_dump(mode="json")


def _halves(trajectories: list[Trajectory], plan: RunPlan) -> tuple[list[Trajectory], list[Trajectory]]:
    held = {task.id for task in split(list(tasks_from(trajectories)), plan.validation_share, plan.seed)[1]}
    return [t for t in trajectories if t.task_id not in held], [t for t in trajectories if t.task_id in held]


def _without_own(task: Task, trajectories: list[Trajectory]) -> Task:
    own = [t.id for t in trajectories if t.task_id == task.id]
    return task.model_copy(update={"exclude_sources": own})


def _parts(records: Iterable[Wire]) -> Iterator[bytes]:
    lines: list[bytes] = []
    size = 0
    for record in records:
        line = orjson.dumps(record.model_dump(mode="json", by_alias=True))
        lines.append(line)
        size += len(line) + 1
        if size >= PART_BYTES:
            yield b"\n".join(lines) + b"\n"
            lines, size = [], 0
    if lines:
        yield b"\n".join(lines) + b"\n"
