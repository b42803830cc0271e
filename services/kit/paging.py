"""Cursor paging: `?limit=&cursor=` gives `{"items": […], "next_cursor": null | "…"}`.

A cursor is opaque to callers and carries the last sort key of the page; it is not a secret and grants nothing: every
query that uses one runs under the caller's tenant. A cursor that cannot be read is the caller's error, never a
server's.
"""

import base64
import binascii
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Query
from pydantic import BaseModel

from cacherl.errors import InputError

MAX_CURSOR = 1024
MAX_PAGE = 1000
Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many items a page holds at most.")]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None


def encode_cursor(*keys: str | int | float | None) -> str:
    """The opaque cursor that stands for the last item's sort keys."""
    return base64.urlsafe_b64encode(orjson.dumps(keys)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None, length: int) -> tuple[Any, ...] | None:
    """The sort keys in a cursor (None for the first page); InputError `invalid-cursor` for anything but a cursor of `length` keys."""
    if cursor is None:
        return None
    try:
        keys = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        keys = None
    if not isinstance(keys, list) or len(keys) != length or not all(key is None or isinstance(key, str | int | float) for key in keys):
        raise InputError("The cursor is not one that this list gave out.", slug="invalid-cursor")
    return tuple(keys)


def page(rows: list[Item], limit: int, *keys: str | int | float | None) -> Page[Item]:
    """A page of rows that were asked for with `limit + 1`; `keys` are the sort keys of row `limit - 1` where there is one more."""
    more = len(rows) > limit
    return Page(items=rows[:limit], next_cursor=encode_cursor(*keys) if more else None)
