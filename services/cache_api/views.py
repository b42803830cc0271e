"""Views at hand: each is loaded once and kept while it does not change."""

from collections import OrderedDict

from services.cache_api.store import find_cache, load_view, queries, row
from services.cache_api.view import View
from services.kit.postgres import AsyncRows

KEPT = 256


class Views:
    """The views that this process has read, by id; a view changes only by growing (`version`) or by being closed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int | None], View] = OrderedDict()

    def kept(self, view: str, version: int | None, covers_through: int | None) -> View | None:
        """The view, where this process has it as it is by now."""
        return self._kept.get((view, version, covers_through)) if version is not None else None

    async def get(self, connection: AsyncRows, view: str) -> View:
        """The view as it is now. Errors: NotFoundError `no-such-view`."""
        found = await row(connection, queries.view_version, {"view": view})
        key = (view, found["version"], found["covers_through"]) if found else None
        if key is not None and key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        loaded = await load_view(connection, view)
        self._kept[view, loaded.version, loaded.covers_through] = loaded
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return loaded

    async def present(self, connection: AsyncRows, cache: str) -> View:
        """The view that a cache reads by now."""
        return await self.get(connection, (await find_cache(connection, cache))["view"])
