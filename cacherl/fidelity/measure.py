"""How often a cache of some recordings answers others, and how often wrongly: `cacherl.fidelity/1` of contracts §7.

The first recordings go into a throw-away cache, which is calibrated against itself; then every answered call of the second is looked up
through the real API, in order, and what is served is compared with what was recorded. The replay follows recorded trajectories, so the
state before a call is the one that was recorded: each lookup carries the recorded calls before it as its history, never what the cache
served for them, and one false hit does not hide the next. The recordings of the replayed trajectory itself never answer; those of its task
do, where they are recorded. Revision, view and time are pinned, so the same files give the same report.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from cacherl.api.cache import CacheCreate, CacheSettings, Calibration, CalibrationCreate, LookupCall, LookupItem, LookupRequest
from cacherl.client import CacheClient
from cacherl.errors import DataError, ServiceError
from cacherl.fidelity.false_hit import FalseHit, Served, counted, false_hit
from cacherl.fidelity.plain_key import PlainKey
from cacherl.fidelity.rate import Rate, TaskHits, rate
from cacherl.fidelity.replayed_call import ReplayedCall, replayed_calls
from cacherl.jobs import JobState
from cacherl.result_digest import result_digest
from cacherl.tier import CallOutcome, LookupResult, Preset
from cacherl.tool_cache import CachePins
from cacherl.tool_spec import Annotations, Function, ToolSpec
from cacherl.trajectory import Trajectory
from cacherl.wire import Wire

__all__ = ["Answered", "FidelityReport", "Measured", "measure"]

SCHEMA = "cacherl.fidelity/1"
HITS = (CallOutcome.EXACT, CallOutcome.FUZZY, CallOutcome.BEST_EFFORT)
ITEMS_AT_ONCE = 256
BYTES_AT_ONCE = 8 << 20
POLL_S = 0.2
Tell = Callable[[str], None]


class Tiers(Wire):
    """Each tier's rate; `calls` are all replayed calls."""

    exact: Rate
    fuzzy: Rate
    best_effort: Rate


class Unearned(Wire):
    """A pool of tools that has not earned its fuzzy tier, and how many tasks it would take."""

    pool: str
    calls: int
    tasks: int
    n_required: int


class Trajectories(Wire):
    """Replayed trajectories with calls, and those of them in which nothing false was served."""

    total: int
    without_false_hit: int


class FidelityReport(Wire):
    """The whole answer."""

    schema_: Literal["cacherl.fidelity/1"] = Field(default=SCHEMA, alias="schema")
    preset: Preset
    totals: Rate
    tiers: Tiers
    misses: int
    kinds: dict[str, int]
    """False hits by kind (`cacherl.fidelity.false_hit`)."""
    unearned: list[Unearned]
    trajectories: Trajectories
    plain_key: Rate
    """The (tool, canonical arguments) rule on the same calls."""

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}


@dataclass(frozen=True, slots=True)
class Answered:
    """A replayed call and what became of it."""

    call: ReplayedCall
    outcome: CallOutcome
    fidelity: float | None
    right: bool | None
    """None: nothing was served."""
    kind: FalseHit | None
    plain: bool | None
    """Whether the plain key would have been right; None: it has nothing."""


@dataclass(frozen=True)
class Measured:
    """All answers, and what the calibration said."""

    preset: Preset
    answers: list[Answered]
    calibration: Calibration | None
    specs: Mapping[str, ToolSpec]
    """The cache's tools with the annotations that it learned."""

    def report(self) -> FidelityReport:
        """Counts and rates."""
        false = {answer.call.trajectory for answer in self.answers if answer.right is False}
        trajectories = {answer.call.trajectory for answer in self.answers}
        pools = self.calibration.pools if self.calibration is not None else []
        return FidelityReport(
            preset=self.preset,
            totals=self.rate_of((answer.call.task, answer.right) for answer in self.answers),
            tiers=Tiers(
                exact=self._tier(CallOutcome.EXACT), fuzzy=self._tier(CallOutcome.FUZZY), best_effort=self._tier(CallOutcome.BEST_EFFORT)
            ),
            misses=sum(answer.right is None for answer in self.answers),
            kinds=counted(answer.kind for answer in self.answers if answer.kind is not None),
            unearned=[
                Unearned(pool=pool.pool, calls=pool.calls, tasks=pool.tasks, n_required=pool.n_required)
                for pool in pools
                if pool.tier == "fuzzy" and pool.n_required is not None
            ],
            trajectories=Trajectories(total=len(trajectories), without_false_hit=len(trajectories) - len(false)),
            plain_key=self.rate_of((answer.call.task, answer.plain) for answer in self.answers),
        )

    def _tier(self, tier: CallOutcome) -> Rate:
        return self.rate_of((answer.call.task, answer.right if answer.outcome is tier else None) for answer in self.answers)

    def rate_of(self, answers: Iterable[tuple[str, bool | None]]) -> Rate:
        """The rate of (task, right) pairs, one for each replayed call."""
        tasks: dict[str, TaskHits] = defaultdict(TaskHits)
        calls = 0
        for task, right in answers:
            calls += 1
            if right is not None:
                tasks[task].hits += 1
                tasks[task].false += not right
        return rate(calls, tasks.values())


async def measure(
    client: CacheClient,
    record: Sequence[Trajectory],
    replay: Sequence[Trajectory],
    *,
    preset: Preset = "robust",
    target_false: float = 0.01,
    annotations: Mapping[str, Annotations] | None = None,
    tell: Tell = lambda _: None,
) -> Measured:
    """Records, calibrates, replays. Errors: `DataError` where no recorded call is left, `ServiceError` where the calibration fails."""
    tools = [ToolSpec(function=Function(name=name), annotations=given) for name, given in (annotations or {}).items()]
    async with _throw_away(client, preset, tools) as cache:
        ingested = await client.ingest(cache, record, batch=uuid.uuid4().hex)
        tell(f"{ingested.stored} calls recorded, {ingested.duplicate} known already, {ingested.refused_total} lines refused")
        if not ingested.stored:
            raise DataError("the files to record hold no answered tool call", slug="nothing-recorded")
        calibration = await _calibrated(client, cache, target_false, tell) if preset == "robust" else None
        found = await client.get(cache)
        pins = CachePins(name=cache, revision=found.revision, view=found.view, as_of=datetime.now(UTC))
        specs = {tool.spec.name: tool.spec for tool in (await client.tools(cache)).items}
        recorded = list(replayed_calls(record, specs))
        calls = list(replayed_calls(replay, specs))
        if not calls:
            raise DataError("the files to replay hold no answered tool call", slug="nothing-to-replay")
        judge = _Judge(specs, recorded)
        answers: list[Answered] = []
        for batch in _batches(calls):
            results = await _look_up(client, pins, preset, batch)
            answers += [judge.answered(call, result) for call, result in zip(batch, results, strict=True)]
            tell(f"{len(answers)} of {len(calls)} calls replayed")
    return Measured(preset, answers, calibration, specs)


@asynccontextmanager
async def _throw_away(client: CacheClient, preset: Preset, tools: list[ToolSpec]) -> AsyncIterator[str]:
    """A cache that is deleted in the end."""
    name = f"fidelity-{uuid.uuid4().hex}"
    await client.create(CacheCreate(name=name, settings=CacheSettings(preset=preset), tools=tools))
    try:
        yield name
    finally:
        await client.delete(name)


async def _calibrated(client: CacheClient, cache: str, target_false: float, tell: Tell) -> Calibration:
    calibration = await client.calibrate(cache, CalibrationCreate(target_false=target_false))
    while not calibration.state.final:
        await asyncio.sleep(POLL_S)
        calibration = await client.calibration(cache, calibration.id)
        tell(f"calibrating: {calibration.progress.done:.0f} of {calibration.progress.total or 0:.0f} steps")
    if calibration.state is not JobState.SUCCEEDED:
        raise ServiceError(f"the calibration ended as {calibration.state}")
    return calibration


async def _look_up(client: CacheClient, pins: CachePins, preset: Preset, calls: Sequence[ReplayedCall]) -> list[LookupResult]:
    request = LookupRequest(preset=preset, revision=pins.revision, view=pins.view, as_of=pins.as_of, items=[_item(call) for call in calls])
    return [item.results[0] for item in (await client.lookups(pins.name, request)).items]


def _item(call: ReplayedCall) -> LookupItem:
    made = LookupCall(name=call.call.name, arguments=call.call.arguments, occurrence=call.occurrence)
    return LookupItem(calls=[made], scenario=call.scenario, history=list(call.history), exclude_sources=[call.trajectory])


def _batches(calls: Sequence[ReplayedCall]) -> Iterator[list[ReplayedCall]]:
    batch: list[ReplayedCall] = []
    size = 0
    for call in calls:
        weight = sum(len(item.call.model_dump_json()) + len(item.result.model_dump_json()) for item in call.history)
        if batch and (len(batch) == ITEMS_AT_ONCE or size + weight > BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(call)
        size += weight
    if batch:
        yield batch


class _Judge:
    """Compares what is served with what is true."""

    def __init__(self, specs: Mapping[str, ToolSpec], recorded: Sequence[ReplayedCall]) -> None:
        self.specs = specs
        self.plain = PlainKey(recorded, specs)
        self.recordings: dict[tuple[str, int], Served] = {}
        for call in recorded:
            self.recordings.setdefault((call.trajectory, call.step), call.asked)

    def answered(self, call: ReplayedCall, result: LookupResult) -> Answered:
        """What became of a call."""
        right: bool | None = None
        kind: FalseHit | None = None
        if result.outcome in HITS:
            spec = self.specs.get(call.call.name)
            served = result_digest(result.result.content, result.result.is_error, spec)
            right = served == result_digest(call.true.content, call.true.is_error, spec)
            if not right:
                recording = self.recordings.get((result.entry.source, result.entry.step)) if result.entry is not None else None
                kind = false_hit(result.result, call.true, recording, call.asked)
        return Answered(call, result.outcome, result.fidelity, right, kind, self.plain.right(call))
