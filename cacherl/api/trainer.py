"""The trainer API's shapes (contracts §6): datasets, jobs of each kind, policies."""

from typing import Annotated, Literal

from pydantic import Field

from cacherl.api.common import Document, Problem, Progress
from cacherl.api.rollout import Limits, RolloutSampling, Thinking
from cacherl.jobs import JobKind, JobState
from cacherl.score import Estimator
from cacherl.tier import Preset
from cacherl.wire import Json, Time, Wire

Name = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
DatasetKind = Literal["trajectories", "tasks", "episodes"]


class DatasetCreate(Wire):
    """A new, empty dataset to which parts are uploaded."""

    name: Name
    kind: DatasetKind = "trajectories"
    format: str = "auto"
    """An importer's name, or `auto` to recognise it."""


class Dataset(Wire):
    """A dataset and what importing it counted."""

    id: str
    name: str
    kind: DatasetKind
    format: str
    state: Literal["open", "ready", "failed"]
    records: int = 0
    imported: int = 0
    repaired: int = 0
    refused: int = 0
    reasons: dict[str, int] = {}
    sha256: str | None = None
    created_at: Time


class TokenizerSpec(Wire):
    """Byte-level BPE trained on the data."""

    vocab_size: int = Field(default=2048, ge=300, le=200_000)
    boilerplate: bool = False
    """Whole pieces of the tool schemas' JSON as single tokens: short prompts on a small machine."""
    phrases: int = Field(default=0, ge=0, le=10_000)
    """At most so many fixed phrases of the corpus as single tokens; the values between them stay tokens of their own."""
    pattern: str | None = None
    """Pre-tokeniser regex; null: the model family's."""


class ModelSpec(Wire):
    """A Qwen3-architecture model from random initialisation."""

    hidden: int = Field(default=96, ge=8)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=2, ge=1)
    head_dim: int = Field(default=24, ge=4)
    feed_forward: int = Field(default=288, ge=8)
    context: int = Field(default=1024, ge=64)
    embedding_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the random embeddings. Wider ones tell tokens apart from the start, and a tiny model copies them sooner."""


class InitSpec(Wire):
    """kind `init`: tokenizer and random weights; policy `name` version 0."""

    kind: Literal["init"] = "init"
    policy: Name
    datasets: list[str] = Field(min_length=1)
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = ModelSpec()
    seed: int = 0


class AugmentSpec(Wire):
    """kind `augment`: reasoning is added to a dataset of trajectories (method §2)."""

    kind: Literal["augment"] = "augment"
    dataset: str
    output: Name
    teacher: str = "provenance"


class Budget(Wire):
    """When training ends: whichever comes first. The schedule's progress is the larger of the two shares."""

    steps: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    """Wall-clock seconds of training, evaluation and saving left out."""


class Plateau(Wire):
    """Ends SFT when the loss on held-back training tasks no longer falls; fixed before any result is seen."""

    every_steps: int = Field(default=200, ge=1)
    patience: int = Field(default=3, ge=1)
    min_improvement: float = Field(default=0.005, ge=0)
    held_back: int = Field(default=64, ge=1)
    """Training trajectories that are watched, not trained on."""


class SftSpec(Wire):
    """kind `sft`: loss on assistant tokens only."""

    kind: Literal["sft"] = "sft"
    init_policy: Name
    policy: Name
    datasets: list[str] = Field(min_length=1)
    only_accepted: bool = False
    """Only trajectories whose outcome label is true."""
    budget: Budget = Budget(steps=1000)
    plateau: Plateau | None = None
    copying_seconds: float = Field(default=0, ge=0)
    """Warm-up on generic copying of random token segments before the data: the tiny model's pre-training."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=1e-5, gt=0)
    matrix_learning_rate: float = Field(default=2e-2, gt=0)
    """Muon's, for matrices."""
    batch_size: int = Field(default=4, ge=1)
    max_length: int = Field(default=4096, ge=16)
    constant_share: float = Field(default=0.5, ge=0, le=1)
    """The rate is constant for this share of the budget, then falls linearly to `final_share`."""
    final_share: float = Field(default=0.05, ge=0, le=1)
    turns_only_share: float = Field(default=0, ge=0, le=1)
    """For this first share of the budget prompts are stripped and only turns are trained on."""
    threads: int = Field(default=1, ge=1)
    seed: int = 0


class GrpoSpec(Wire):
    """kind `grpo`: TRL's trainer with the reward service's advantages (method §6)."""

    kind: Literal["grpo"] = "grpo"
    init_policy: Name
    policy: Name
    tasks: str
    """A dataset of tasks."""
    cache: str
    budget: Budget = Budget(steps=200)
    tasks_per_step: int = Field(default=16, ge=1)
    group_size: int = Field(default=16, ge=2)
    micro_batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-6, gt=0)
    final_share: float = Field(default=0.1, ge=0, le=1)
    kl: float = Field(default=0.0, ge=0)
    clip: float = Field(default=0.2, gt=0)
    lora_rank: int = Field(default=0, ge=0)
    """0: all parameters."""
    preset: Preset = "robust"
    estimator: Estimator | None = None
    limits: Limits = Limits()
    sampling: RolloutSampling = RolloutSampling()
    thinking: Thinking = "on_budget"
    oversample: float = Field(default=0, ge=0, le=1)
    """Share of extra tasks a step, so that groups without an advantage are replaced."""
    threads: int = Field(default=1, ge=1)
    seed: int = 0
    checkpoint_every: int = Field(default=10, ge=1)


class RejectSpec(Wire):
    """kind `reject`: own episodes that the judge rates ≥ 4/5 and whose every call was exact, added to labelled-true demonstrations."""

    kind: Literal["reject"] = "reject"
    policy: Name
    tasks: str
    cache: str
    originals: list[str] = []
    """Datasets whose labelled-true trajectories are kept beside the accepted episodes."""
    output: Name
    episodes_per_task: int = Field(default=2, ge=1)
    max_tasks: int | None = Field(default=None, ge=1)
    min_rating: float = Field(default=0.8, ge=0, le=1)
    cap_per_tool: int | None = Field(default=None, ge=1)
    limits: Limits = Limits()
    sampling: RolloutSampling = RolloutSampling()
    thinking: Thinking = "on_budget"
    seed: int = 0


class EvaluateSpec(Wire):
    """kind `evaluate`: one policy on held-out tasks, live and cached (method §7)."""

    kind: Literal["evaluate"] = "evaluate"
    policy: Name
    tasks: str
    max_tasks: int | None = Field(default=None, ge=1)
    live_cache: str | None = None
    """A cache with a live server; live episodes are recorded there. Null: no live tools exist, success is null."""
    live_server: str | None = None
    """Name of the live server whose goal check decides success."""
    cached: str | None = None
    """A cache that lacks the tasks' recordings."""
    cached_in: str | None = None
    """A cache that has them."""
    samples: int = Field(default=4, ge=1)
    cached_samples: int = Field(default=2, ge=1)
    cached_tasks: int | None = Field(default=None, ge=1)
    """Cached ways are diagnostics: on the first so many tasks; null: on all."""
    greedy: bool = True
    preset: Preset = "robust"
    limits: Limits = Limits()
    sampling: RolloutSampling = RolloutSampling()
    thinking: Thinking = "on_budget"
    seed: int = 0


JobSpec = Annotated[InitSpec | AugmentSpec | SftSpec | GrpoSpec | RejectSpec | EvaluateSpec, Field(discriminator="kind")]


class JobCreate(Wire):
    """Work to do once its dependencies have succeeded. A spec may name what a dependency will make."""

    spec: JobSpec
    depends_on: list[str] = []
    queue: Literal["cpu", "gpu"] = "cpu"
    priority: int = Field(default=0, ge=-100, le=100)
    """Larger first among the queued."""
    label: str | None = Field(default=None, max_length=120)


class Job(Wire):
    """A job and how far it is."""

    id: str
    kind: JobKind
    state: JobState
    label: str | None
    attempt: int
    progress: Progress
    stage: str | None = None
    """What it is doing now, in a few words."""
    reason: Problem | None = None
    spec: JobSpec
    depends_on: list[str]
    result: Document = {}
    """What it made: dataset ids, policy versions, measured seconds and tokens."""
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None


class JobEvent(Wire):
    """One thing that happened to a job; `id` resumes the stream."""

    id: int
    at: Time
    kind: Literal["state", "progress", "metric", "log"]
    data: dict[str, Json]


class Artifact(Wire):
    """A file that a job made."""

    name: str
    bytes: int
    sha256: str


class PolicyRecord(Wire):
    """A policy version that a job wrote."""

    name: str
    version: int
    kind: Literal["adapter", "full"]
    path: str
    """Relative to the shared weights root."""
    sha256: str
    job: str | None
    created_at: Time
