"""States out of stored histories: what a view sees of the calls before an entry."""

from collections.abc import Iterable, Mapping

from cacherl.state import State, advance
from cacherl.tool_spec import ToolSpec
from services.cache_api.event import Link


def states_of(links: Iterable[Link], view: str, specs: Mapping[str, ToolSpec]) -> dict[bytes, State]:
    """The state after each link, under a view. `links` hold every history from its start."""
    by_id = {link.id: link for link in links}
    states: dict[bytes, State] = {}
    for wanted in by_id:
        path: list[Link] = []
        at: bytes | None = wanted
        while at is not None and at not in states:
            path.append(by_id[at])
            at = by_id[at].parent
        state = states[at] if at is not None else State.start(view)
        for link in reversed(path):
            state = states[link.id] = advance(state, link.call, specs.get(link.name), link.outcome, link.result)
    return states
