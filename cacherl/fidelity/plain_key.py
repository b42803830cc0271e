"""The rule that most caches of tool results follow: (tool, canonical arguments), whatever happened before."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from cacherl.fidelity.replayed_call import ReplayedCall
from cacherl.result_digest import result_digest
from cacherl.tool_spec import ToolSpec

__all__ = ["PlainKey"]


class PlainKey:
    """What was recorded for each key; of several results the most frequent answers."""

    def __init__(self, recorded: Iterable[ReplayedCall], specs: Mapping[str, ToolSpec]) -> None:
        self.specs = specs
        self._all: dict[bytes, Counter[bytes]] = defaultdict(Counter)
        self._own: dict[tuple[bytes, str], Counter[bytes]] = defaultdict(Counter)
        for call in recorded:
            digest = self._digest(call)
            self._all[call.asked.key][digest] += 1
            self._own[call.asked.key, call.trajectory][digest] += 1

    def right(self, call: ReplayedCall) -> bool | None:
        """Whether it would serve the true result; None: it has none. The call's own trajectory never answers."""
        left = self._all.get(call.asked.key, Counter()) - self._own.get((call.asked.key, call.trajectory), Counter())
        return max(left, key=lambda digest: (left[digest], digest)) == self._digest(call) if left else None

    def _digest(self, call: ReplayedCall) -> bytes:
        return result_digest(call.true.content, call.true.is_error, self.specs.get(call.call.name))
