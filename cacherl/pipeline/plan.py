"""What a run is: its logs, its tasks, how much of everything.

The report records it whole; unknown fields are refused before any work starts.
"""

import hashlib
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, model_validator

from cacherl.api.trainer import EvaluateSpec, GrpoSpec, ModelSpec, RejectSpec, SftSpec, TokenizerSpec
from cacherl.pipeline.names import ROWS
from cacherl.tool_spec import Annotations
from cacherl.wire import Wire


class RunPlan(Wire):
    """One run of the main job. The dictionaries override fields of the job specs of `cacherl.api.trainer`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    logs: list[Path] = Field(min_length=1)
    """Recorded trajectories: the demonstrations."""
    cache_logs: list[Path] = []
    """The recordings that the training cache gets; empty: those of `logs`."""
    format: str = "auto"
    scenario: str | None = None
    annotations: dict[str, Annotations] = {}
    """By tool name: what the caches are told of the tools before anything is inferred."""
    tasks: Path | None = None
    """Training tasks; null: derived from the logs."""
    validation_tasks: Path | None = None
    """Held-out tasks; null: a share of the logs' tasks, whose recordings the training cache then lacks."""
    validation_logs: list[Path] = []
    """Recordings of the held-out tasks, in a cache that training never sees; empty: those of the held-out share."""
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    live_server: str | None = None
    """Name of the live tool server that success is measured with; null: there is none."""
    target_false: float = Field(default=0.01, gt=0, lt=1)
    teacher: str = "provenance"
    rows: list[str] = list(ROWS)
    """Which policies to make and compare."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = ModelSpec()
    sft: dict[str, Any] = {}
    continued: dict[str, Any] = {}
    """SFT continued and SFT on accepted: on top of `sft`."""
    reject: dict[str, Any] = {}
    grpo: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _specs_are_valid(self) -> "RunPlan":
        unknown = set(self.rows) - set(ROWS)
        if unknown or "base" not in self.rows or "sft" not in self.rows:
            raise ValueError(f"rows are of {', '.join(ROWS)}, base and sft among them")
        if "recipe" in self.rows and "sft_accepted" not in self.rows:
            raise ValueError("the row recipe starts from sft_accepted")
        SftSpec(init_policy="a", policy="b", datasets=["c"], **self.sft)
        SftSpec(init_policy="a", policy="b", datasets=["c"], **{**self.sft, **self.continued})
        RejectSpec(policy="a", tasks="t", cache="c", output="o", **self.reject)
        GrpoSpec(init_policy="a", policy="b", tasks="t", cache="c", **self.grpo)
        EvaluateSpec(policy="a", tasks="t", **self.evaluate)
        return self

    @property
    def digest(self) -> str:
        """Identifies the plan: a run is resumed only under the same one."""
        return hashlib.sha256(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()
