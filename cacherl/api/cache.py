"""The cache API's shapes (contracts §3)."""

from typing import Literal

from pydantic import Field

from cacherl.api.cache_calibration import CurvePoint, FidelityStep, PoolCalibration
from cacherl.api.common import FieldError, Progress
from cacherl.jobs import JobState
from cacherl.tier import CallOutcome, LookupResult, Preset, ToolResult
from cacherl.tool_call import ToolCall
from cacherl.tool_spec import Annotations, ToolSpec
from cacherl.wire import Json, Time, Wire

Mode = Literal["replay", "record", "fallthrough", "shadow"]
"""`replay`: never live; `record`: always live, and stored; `fallthrough`: live where nothing recorded answers, and stored; `shadow`: as
replay, a sampled share also asked live and compared. Every mode but replay needs `live_server`, and the scope to write."""
Select = Literal["majority", "first", "sample"]


class CacheSettings(Wire):
    """What a cache does unless a lookup says otherwise."""

    preset: Preset = "robust"
    live_server: str | None = None
    """Name of a live tool server in the service's configuration; live modes need one."""
    live_budget: int | None = Field(default=None, ge=0)
    """How many live calls a run may make in `fallthrough` and `shadow`, unless a request says otherwise; null: as many as it needs."""
    shadow_share: float = Field(default=0.05, ge=0, le=1)
    """Mode `shadow`: the share of answered calls that is also asked live."""
    fuzzy_threshold: float = Field(default=0.5, ge=0, le=1)
    """Preset `paper`: the Jaccard threshold (the paper gives none)."""
    fidelity_floor: float = Field(default=0.9, ge=0, le=1)
    """Preset `robust`: best_effort is served only above this calibrated fidelity."""
    embedder: Literal["hashing"] | None = "hashing"
    """What makes vectors of calls for the near tiers; null: none, the exact tier alone answers. Fixed when the cache is made."""


class CacheCreate(Wire):
    """A new cache."""

    name: str = Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    settings: CacheSettings = CacheSettings()
    tools: list[ToolSpec] = []
    """Specs and annotations known beforehand; importing trajectories adds theirs."""
    dimension: int | None = None
    """Width of the vectors that the caller counts on; refused where the embedder makes others."""


class Cache(Wire):
    """A cache."""

    id: str
    name: str
    revision: int
    view: str
    entries: int
    embedder: str | None
    """Name of what makes the vectors; null: no vectors, no near tiers."""
    dimension: int
    """Width of the vectors; 0 without an embedder."""
    settings: CacheSettings
    created_at: Time


class EntryLine(Wire):
    """One recorded call on its own, as a line of a bulk ingestion."""

    call: ToolCall
    result: ToolResult
    scenario: str
    history: list["HistoryItem"] = []
    source: str
    step: int = Field(ge=0, lt=1 << 31)
    task: str | None = None
    recorded_at: Time | None = None


class HistoryItem(Wire):
    """An earlier call of the same episode and how it was answered."""

    call: ToolCall
    outcome: CallOutcome
    result: ToolResult
    live: bool = False
    """Whether it was answered live, in the episode's session: `live` of its answer. In mode `record` all of them were."""


class LineProblem(Wire):
    """A line that was refused."""

    line: int
    errors: list[FieldError]
    detail: str


class Ingested(Wire):
    """What a batch did."""

    batch: str
    read: int
    stored: int
    duplicate: int
    conflicting: int
    """Entries whose key had another result already; both are kept."""
    refused: list[LineProblem] = []
    refused_total: int = 0
    revision: int


class LookupCall(ToolCall):
    """A call with its occurrence: how often this key came before in the episode."""

    occurrence: int = Field(default=0, ge=0)


class Draw(Wire):
    """What a seeded sample of several results is drawn for."""

    task: str
    episode: int


class LookupItem(Wire):
    """The calls of one turn of one episode, in order; the state is chained through them."""

    calls: list[LookupCall] = Field(min_length=1, max_length=64)
    scenario: str
    state: str | None = None
    """What the last answer gave back; null is the start. In a live mode it also tells which calls were live."""
    history: list[HistoryItem] | None = None
    """Instead of `state`."""
    exclude_sources: list[str] = []
    draw: Draw | None = None
    session: str | None = None
    """Live modes: the live server's session of this episode (run, task and episode)."""


class LookupRequest(Wire):
    """One or many turns to answer, pinned."""

    preset: Preset | None = None
    revision: int | None = Field(default=None, ge=0, lt=1 << 63)
    view: str | None = None
    as_of: Time | None = None
    mode: Mode = "replay"
    select: Select = "majority"
    run: str | None = None
    run_seed: int = 0
    budget: int | None = Field(default=None, ge=0)
    """Live calls that the run may make in all; null: as the cache's settings say."""
    explain: bool = False
    items: list[LookupItem] = Field(min_length=1, max_length=1024)


class LookupItemAnswer(Wire):
    """The answers to one turn's calls, and the state after them."""

    state: str
    results: list[LookupResult]


class LookupAnswer(Wire):
    """What the lookups were pinned to and their answers, in order."""

    revision: int
    view: str
    as_of: Time
    items: list[LookupItemAnswer]


class EntryView(Wire):
    """One recorded call as listed."""

    id: str
    tool: str
    arguments: dict[str, Json]
    result: ToolResult
    scenario: str
    source: str
    step: int
    task: str | None
    schema_hash: str | None
    recorded_at: Time | None
    revision: int


class ToolView(Wire):
    """A tool of a cache: its spec with the annotations in force, and how it was used."""

    spec: ToolSpec
    entries: int
    keys: int
    conflicting_keys: int
    errors: int


class ViewCreate(Wire):
    """A new view: annotations that override, by tool name."""

    annotations: dict[str, Annotations] = {}
    comparisons: int | None = Field(default=None, ge=1)
    """How many comparisons without conflict a scope takes that is finer than the group; null: chosen by replaying the recordings."""


class View(Wire):
    """A frozen way of reading a cache."""

    id: str
    cache: str
    state: JobState
    covers_from: int
    covers_through: int
    progress: Progress = Progress()
    learning: Json = None
    """How many comparisons a learned scope took and why; null where nothing was learned. Each tool has its own evidence."""


class CalibrationCreate(Wire):
    """Leave-one-task-out replay of a cache against itself (method §3.5)."""

    target_false: float = Field(default=0.01, gt=0, lt=1)


class ToolCalibration(Wire):
    """What calibration found for one tool and tier."""

    tool: str
    tier: Literal["exact", "fuzzy", "best_effort"]
    calls: int
    tasks: int
    false_hits: int
    fidelity: float
    earned: bool
    threshold: float | None
    n_required: int | None
    within_task: bool = False
    pool: str = ""
    """The pool whose threshold this is, and to which the fidelity is drawn where there are few hits."""
    steps: list[FidelityStep] = []
    """Fidelity by similarity, never falling."""

    def fidelity_at(self, similarity: float) -> float:
        """The fidelity of a hit of this similarity: below the first step that of the first."""
        found = self.steps[0].fidelity if self.steps else self.fidelity
        for step in self.steps:
            if step.similarity <= similarity:
                found = step.fidelity
        return found


class Calibration(Wire):
    """A calibration and its evidence."""

    id: str
    cache: str
    state: JobState
    revision: int | None = None
    view: str | None = None
    progress: Progress = Progress()
    tools: list[ToolCalibration] = []
    pools: list[PoolCalibration] = []
    noise_floor: float | None = None
    curve: list[CurvePoint] = []
    """Over fuzzy thresholds, strictest first."""
    best_effort_curve: list[CurvePoint] = []
    """Over best-effort thresholds, with fuzzy at its loosest."""


class ToolStats(Wire):
    """How one tool's lookups were answered."""

    tool: str
    outcomes: dict[str, int]
    hits: int = 0
    misses: int = 0
    hit_rate: float | None = None
    """Of all its lookups; null where there was none."""
    miss_rate: float | None = None
    false_rate: float | None = None
    """Share of its hits that are wrong, as far as is known; null is unknown."""
    false_rate_from: Literal["shadow", "calibration"] | None = None


class CacheStats(Wire):
    """Counts of a cache."""

    entries: int
    tools: int
    keys: int
    conflicting_keys: int
    errors: int
    lookups: list[ToolStats]


class CoverageItem(Wire):
    """A call that missed, and how often: what to record next."""

    tool: str
    arguments: dict[str, Json]
    misses: int


class Coverage(Wire):
    """What to record next."""

    items: list[CoverageItem]
    tools: list["CoverageTool"] = []
    """By tool, the one that missed most first."""


class CoverageTool(Wire):
    """How often a tool missed."""

    tool: str
    misses: int
    lookups: int
    miss_rate: float
    calls: int
    """Different calls among the misses, as far as they are kept."""


EntryLine.model_rebuild()
