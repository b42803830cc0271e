"""Policies: names, and versions that grow.

A name belongs to one tenant, since weights lie under it. A version is reserved before its directory is written, so no two writers ever
share one, and registered when it stands; only then can it be found. Both carry the job's fencing token.
"""

from dataclasses import dataclass
from typing import Any, Literal

from cacherl.api.trainer import PolicyRecord
from cacherl.errors import ConflictError, NotFoundError
from services.kit.postgres import SyncRows
from services.trainer.jobs import Claim, LeaseLostError, queries


@dataclass(frozen=True)
class WrittenVersion:
    """A policy version on the disk."""

    name: str
    version: int
    kind: Literal["adapter", "full"]
    path: str
    """Relative to the weights root."""
    sha256: str
    """Of the weights file."""


def reserve(connection: SyncRows, name: str, claim: Claim) -> int:
    """The next version of a name, this job's alone. ConflictError `policy-name-taken` where the name is another's."""
    connection.execute(queries.take_name, {"name": name})
    if connection.execute(queries.own_name, {"name": name}).fetchone() is None:
        raise ConflictError(f"the policy name {name} is taken: choose another", slug="policy-name-taken")
    row = connection.execute(queries.reserve_version, {"name": name, "job": claim.id, "attempt": claim.attempt}).fetchone()
    assert row is not None, "an insert returns its row"
    return row["version"]


def register(connection: SyncRows, written: WrittenVersion, claim: Claim) -> None:
    """Makes a written version one that can be found. LeaseLostError where this attempt did not reserve it."""
    row = {
        "name": written.name,
        "version": written.version,
        "kind": written.kind,
        "path": written.path,
        "sha256": written.sha256,
        "job": claim.id,
        "attempt": claim.attempt,
    }
    if connection.execute(queries.register_version, row).fetchone() is None:
        raise LeaseLostError


def find(connection: SyncRows, name: str, version: int | None = None) -> PolicyRecord:
    """A version of a policy, by default its newest. NotFoundError `no-such-policy`."""
    row = connection.execute(queries.policy, {"name": name, "version": version}).fetchone()
    if row is None:
        raise NotFoundError(f"there is no policy {name}" + (f"@{version}" if version is not None else ""), slug="no-such-policy")
    return policy_of(row)


def policy_of(row: dict[str, Any]) -> PolicyRecord:
    """The API's form of a row."""
    return PolicyRecord.model_validate({name: row[name] for name in PolicyRecord.model_fields})
