"""Policies: what training made."""

from typing import Annotated

from fastapi import APIRouter, Query

from cacherl.api.common import Page
from cacherl.api.trainer import PolicyRecord
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor
from services.trainer import policies
from services.trainer.jobs import queries
from services.trainer.routes.parts import PartsOf, Trainee

router = APIRouter(prefix="/v1/policies", tags=["policies"])


@router.get("", response_model=Page[PolicyRecord], summary="The newest version of every policy")
def list_policies(caller: Trainee, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[PolicyRecord]:
    """By name."""
    after = decode_cursor(cursor, 1)
    with parts.database.tenant(caller.tenant) as connection:
        rows = connection.execute(queries.policies, {"limit": limit + 1, "after": after[0] if after else None}).fetchall()
    more = encode_cursor(rows[limit - 1]["name"]) if len(rows) > limit else None
    return Page[PolicyRecord](items=[policies.policy_of(row) for row in rows[:limit]], next_cursor=more)


@router.get("/{name}", response_model=PolicyRecord, summary="A version of a policy, by default the newest")
def get_policy(name: str, caller: Trainee, parts: PartsOf, version: Annotated[int | None, Query(ge=0)] = None) -> PolicyRecord:
    """Where its weights lie, and their hash."""
    with parts.database.tenant(caller.tenant) as connection:
        return policies.find(connection, name, version)
