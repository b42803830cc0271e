"""Jobs: what long work is called and how its state may move. Postgres is the truth, the queue only a doorbell (architecture §3)."""

from enum import StrEnum


class JobKind(StrEnum):
    """What a job does."""

    INIT = "init"
    """Train a tokenizer on the data and write a randomly initialised policy."""
    AUGMENT = "augment"
    """Hybrid thinking (method §2)."""
    SFT = "sft"
    GRPO = "grpo"
    REJECT = "reject"
    """Rejection sampling: the policy's own accepted episodes become demonstrations."""
    EVALUATE = "evaluate"


class JobState(StrEnum):
    """Where a job stands."""

    BLOCKED = "blocked"
    """A dependency has not succeeded yet."""
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """Something it needs is away."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing moves any more (but a failed or cancelled job can be retried)."""
        return self in FINAL


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.BLOCKED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.WAITING, JobState.QUEUED}),
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.BLOCKED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED, JobState.BLOCKED}),
}
"""From each state, the states that may follow. RUNNING → QUEUED is a lost lease; FAILED/CANCELLED → QUEUED a retry."""


def may_follow(before: JobState, after: JobState) -> bool:
    """Whether the table allows `before` → `after`."""
    return after in TRANSITIONS[before]
