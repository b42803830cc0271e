"""Episodes of a policy, played by the rollout service and scored by the reward service: what GRPO, rejection and evaluation share.

The job's thread is synchronous, the SDK is not: one event loop in a thread of its own serves them all. Nothing is played before the
engines hold the very version that is asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from cacherl.api.reward import ScoreRequest
from cacherl.api.rollout import PolicyPublish, Rollout, RolloutCreate
from cacherl.api.trainer import PolicyRecord
from cacherl.client import Client
from cacherl.client.blocking import Blocking
from cacherl.engine import PolicyVersion
from cacherl.episode import Episode
from cacherl.errors import CacheRLError, ServiceError
from cacherl.jobs import JobState
from cacherl.score import Score
from cacherl.tier import Preset
from cacherl.trajectory import Task
from services.kit import trace
from services.trainer.job import JobContext
from services.trainer.policies import WrittenVersion

SCORE_BATCH = 256
Seen = Callable[[int], None]
"""Told how many episodes have finished; may raise to stop."""


class Playing:
    """The other services, for one job: `with Playing(context) as playing: …`."""

    def __init__(self, context: JobContext) -> None:
        self.run = Blocking()
        self._context = context
        self._client: Client | None = None

    def __enter__(self) -> Self:
        self.run.__enter__()
        self._client = Client(self._context.endpoints, self._context.token, headers=trace.outgoing_headers())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None) -> None:
        try:
            self.run(self.client.close())
        finally:
            self.run.__exit__(kind, error, trace_)

    @property
    def client(self) -> Client:
        """The SDK under the job's delegation."""
        assert self._client is not None, "use `with Playing(context) as playing:`"
        return self._client

    def publish(self, version: PolicyRecord | WrittenVersion) -> PolicyVersion:
        """Waits until the engines hold a version. Errors: `EngineError`."""
        request = PolicyPublish(name=version.name, version=version.version, kind="full", path=version.path, sha256=version.sha256)
        self.run(self.client.rollout.publish(request))
        return PolicyVersion(name=version.name, version=version.version)

    def play(self, request: RolloutCreate, seen: Seen = lambda _: None) -> tuple[list[Episode], Rollout]:
        """All episodes of a rollout, by group and index, and its summary. A job that stops cancels what it asked for."""
        accepted = self.run(self.client.rollout.create(request))
        episodes: list[Episode] = []
        try:
            for episode in self.run.each(self.client.rollout.episodes(accepted.id)):
                episodes.append(episode)
                seen(len(episodes))
        except BaseException:
            self._give_up(accepted.id)
            raise
        summary = self.run(self.client.rollout.get(accepted.id))
        if summary.state is not JobState.SUCCEEDED:
            why = summary.reason.detail if summary.reason else "no reason was given"
            raise ServiceError(f"the rollout {summary.id} ended as {summary.state}: {why}")
        return sorted(episodes, key=lambda e: (e.group, e.index)), summary

    def score(self, episodes: Sequence[Episode], tasks: Iterable[Task], preset: Preset) -> list[Score]:
        """One score per episode, in order."""
        known = list(tasks)
        scores: list[Score] = []
        for start in range(0, len(episodes), SCORE_BATCH):
            request = ScoreRequest(episodes=list(episodes[start : start + SCORE_BATCH]), tasks=known, preset=preset)
            scores += self.run(self.client.reward.score(request)).scores
        return scores

    def _give_up(self, rollout: str) -> None:
        try:
            self.run(self.client.rollout.cancel(rollout))
        except CacheRLError:
            return  # it is away or has ended: nothing of it is waited for
