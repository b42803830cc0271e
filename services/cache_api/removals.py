"""What a view that is being built must know of removals: nothing that was purged comes back with it, nothing is written for what is gone.

A view is keyed beside everything else that happens to its cache. A block of keys holds the view's row, so a cache cannot be deleted under
it; entries that were hidden before are hidden in the new view too; and the switch, which has the cache's lock, catches up with what was
purged or erased since a block was read.
"""

from cacherl.errors import NotFoundError
from services.cache_api import store
from services.cache_api.purge import operations
from services.cache_api.store import Row
from services.kit.postgres import AsyncRows


async def hold(connection: AsyncRows, view: str) -> None:
    """Keeps a view for the rest of the transaction. Errors: NotFoundError `no-such-view` where it was deleted with its cache."""
    if await store.row(connection, operations.hold_view, {"view": view}) is None:
        raise NotFoundError("The view was deleted while it was built.", slug="no-such-view")


async def hide(connection: AsyncRows, cache: str, view: str, rows: list[Row]) -> None:
    """Hides the keys of rows that were removed."""
    gone = [row for row in rows if row["removed_revision"] is not None]
    if gone:
        hidden = {"entries": [row["id"] for row in gone], "revisions": [row["removed_revision"] for row in gone]}
        await connection.execute(operations.hide_keys, {"cache": cache, "view": view, **hidden})


async def catch_up(connection: AsyncRows, cache: str, view: str) -> None:
    """Hides and forgets what was removed while the view was built; under the cache's lock."""
    await connection.execute(operations.follow_removals, {"cache": cache, "view": view})
    await connection.execute(operations.follow_erasures, {"cache": cache, "view": view})
