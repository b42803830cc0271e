"""What a job's process has: its order, the data, the policies, the other services, and whom it tells.

Everything it writes to the database goes through its fencing token. Names in a spec are resolved when the job starts: a dataset or policy
that a dependency made is there by then, and what was resolved is part of the result.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cacherl.api.trainer import Dataset, DatasetKind, PolicyRecord
from cacherl.client import Endpoints
from cacherl.trajectory import Task, Trajectory
from cacherl.wire import Wire
from services.kit.identifiers import new_id
from services.trainer import datasets, policies
from services.trainer.datasets import DatasetFiles
from services.trainer.jobs import Claim, JobStore
from services.trainer.policies import WrittenVersion
from services.trainer.progress import Silent
from services.trainer.settings import TrainerSettings

if TYPE_CHECKING:  # a job that trains nothing starts without torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from services.trainer.weights import WeightsRoot


@dataclass
class JobContext:
    """One attempt at a job, from inside."""

    claim: Claim
    settings: TrainerSettings
    store: JobStore
    progress: Silent
    token: str = field(repr=False)
    """The job's delegation: how it speaks to the other services."""

    @property
    def directory(self) -> Path:
        """Where the job keeps what it may go on from."""
        return self.settings.shared_root / "jobs" / self.claim.id

    @property
    def artifacts(self) -> Path:
        """Files that the job's owner may fetch."""
        folder = self.directory / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def weights(self) -> "WeightsRoot":
        """The folder of policies."""
        from services.trainer.weights import WeightsRoot  # noqa: PLC0415

        return WeightsRoot(self.settings.shared_root / "weights")

    @cached_property
    def files(self) -> DatasetFiles:
        """The folder of datasets."""
        return DatasetFiles(self.settings.shared_root / "datasets")

    @property
    def endpoints(self) -> Endpoints:
        """Where the services are."""
        own = self.settings
        return Endpoints(cache_api=own.cache_api_url, rollout=own.rollout_url, reward=own.reward_url, trainer=own.trainer_url)

    # -- data -------------------------------------------------------------------------------------------------------------------------

    def dataset(self, name: str, kind: DatasetKind) -> Dataset:
        """A dataset by id or name. NotFoundError, ConflictError where it cannot be read."""
        with self.store.fenced(self.claim) as connection:
            return datasets.find_ready(connection, name, kind)

    def trajectories(self, names: Iterable[str]) -> Iterator[Trajectory]:
        """The demonstrations of datasets, in order."""
        for name in names:
            for line in self.files.lines(self.dataset(name, "trajectories").id):
                yield Trajectory.model_validate_json(line)

    def tasks(self, name: str, limit: int | None = None) -> list[Task]:
        """The tasks of a dataset, the first `limit` of them."""
        lines = self.files.lines(self.dataset(name, "tasks").id)
        return [Task.model_validate_json(line) for line, _ in zip(lines, range(limit if limit is not None else 10**9), strict=False)]

    def save_dataset(self, name: str, kind: Literal["trajectories", "tasks"], records: Iterable[Wire]) -> Dataset:
        """A new dataset of what the job made."""
        identifier = new_id("dst")
        count, sha256 = self.files.write(identifier, records)
        with self.store.fenced(self.claim) as connection:
            return datasets.made(connection, identifier, name, kind, self.claim.id, count, sha256)

    # -- policies ---------------------------------------------------------------------------------------------------------------------

    def policy(self, name: str) -> PolicyRecord:
        """The newest version of a policy. NotFoundError where there is none."""
        with self.store.fenced(self.claim) as connection:
            return policies.find(connection, name)

    def load(self, name: str) -> "tuple[PolicyRecord, PreTrainedModel, PreTrainedTokenizerFast]":
        """The newest version of a policy with its model and tokenizer."""
        record = self.policy(name)
        return record, *self.weights.load(record.path)

    def write_policy(
        self, name: str, model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerFast", about: dict[str, Any]
    ) -> WrittenVersion:
        """Writes a version that only this job knows; `register` makes it one that can be found."""
        with self.store.fenced(self.claim) as connection:
            version = policies.reserve(connection, name, self.claim)
        return self.weights.write(name, version, model, tokenizer, {"job": self.claim.id, **about})

    def register(self, written: WrittenVersion) -> None:
        """Makes a version one that can be found."""
        with self.store.fenced(self.claim) as connection:
            policies.register(connection, written, self.claim)

    def save_policy(
        self, name: str, model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerFast", about: dict[str, Any]
    ) -> WrittenVersion:
        """Writes and registers a version."""
        written = self.write_policy(name, model, tokenizer, about)
        self.register(written)
        return written
