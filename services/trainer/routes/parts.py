"""What the routes work with, and the synchronous form of acting once under an idempotency key."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel

from cacherl.errors import InputError
from services.kit.auth import Caller, Scope, requires
from services.kit.idempotency import CLAIM, KEEP, READ, REPLAYED
from services.kit.postgres import SyncDatabase, SyncRows
from services.trainer.datasets import DatasetFiles
from services.trainer.jobs import JobStore
from services.trainer.queue import Bell
from services.trainer.settings import TrainerSettings

Trainee = Annotated[Caller, Depends(requires(Scope.TRAIN_RUN))]


@dataclass(frozen=True)
class Parts:
    """The service's parts."""

    settings: TrainerSettings
    database: SyncDatabase
    jobs: JobStore
    files: DatasetFiles
    bell: Bell

    def job_directory(self, job: str) -> Path:
        """Where a job's files lie; `job` is the id of a row that was read under its tenant."""
        return self.settings.shared_root / "jobs" / job


def _parts(request: Request) -> Parts:
    return request.app.state.parts


PartsOf = Annotated[Parts, Depends(_parts)]


def once(
    connection: SyncRows, *, caller: Caller, route: str, key: str | None, body: BaseModel | None, act: Callable[[], tuple[int, BaseModel]]
) -> Response:
    """`services.kit.idempotency.once` for routes that run in a thread: key row, effect and answer are the caller's one transaction."""
    if key is None:
        return _answer(*act())
    if not (key.isascii() and key.isprintable()):
        raise InputError("An Idempotency-Key has printable ASCII characters only.", slug="invalid-idempotency-key")
    name = (caller.tenant, route, key)
    fingerprint = hashlib.sha256(body.model_dump_json().encode() if body is not None else b"").digest()
    if connection.execute(CLAIM, (*name, fingerprint)).fetchone() is None:
        row: dict[str, Any] | None = connection.execute(READ, name).fetchone()
        assert row is not None, "a key that conflicts is committed"
        if bytes(row["fingerprint"]) != fingerprint:
            raise InputError("This Idempotency-Key came before with another body.", slug="idempotency-key-reused")
        return Response(bytes(row["body"]), status_code=row["status"], media_type="application/json", headers={REPLAYED: "true"})
    status, answer = act()
    connection.execute(KEEP, (status, answer.model_dump_json().encode(), *name))
    return _answer(status, answer)


def _answer(status: int, answer: BaseModel) -> Response:
    return Response(answer.model_dump_json().encode(), status_code=status, media_type="application/json")
