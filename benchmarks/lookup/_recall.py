"""Whether the nearest call that is served is the nearest there is: against an exact search in 32-bit floats, tool by tool."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lookup._asks import KNOWN, unseen_of
from benchmarks.lookup._workload import SMALLEST, TOOLS, runs
from cacherl.tool_call import canonical_arguments
from services.cache_api.embed import HashingEmbedder, call_text

Vectors = NDArray[np.float32]
SAME = 1e-6
"""Cosines that differ by less are the same call as far as a search can tell."""
Serve = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]


def text(name: str, arguments: dict[str, Any]) -> str:
    """What is embedded of a call."""
    return call_text(name, canonical_arguments(arguments, KNOWN[name]))


def recall(entries: int, queries: int, serve: Serve) -> dict[str, Any]:
    """recall@1 over all tools, of the smallest tool, and the largest cosine given away. `serve` answers items in preset `paper`."""
    embedder = HashingEmbedder()
    recorded: dict[str, dict[tuple[str, int], str]] = {tool[0]: {} for tool in TOOLS}
    for run in runs(entries):
        for place, (name, given, _) in enumerate(run.calls):
            recorded[name][run.source, place] = text(name, given)
    right: dict[str, list[bool]] = {}
    lost = 0.0
    for name, texts in recorded.items():
        asked = unseen_of(name, queries)
        served = serve([one.item for one in asked])
        vectors_ND = embedder.vectors(list(texts.values()))
        places = {place: number for number, place in enumerate(texts)}
        queries_QD = embedder.vectors([text(name, one.item["calls"][0]["arguments"]) for one in asked])
        cosines_QN = queries_QD @ vectors_ND.T
        for cosines_N, answer in zip(cosines_QN, served, strict=True):
            if answer["outcome"] != "best_effort":
                continue  # preset `paper` served one whose words are alike
            got = float(cosines_N[places[answer["entry"]["source"], answer["entry"]["step"]]])
            gap = float(cosines_N.max()) - got
            right.setdefault(name, []).append(gap <= SAME)
            lost = max(lost, gap)
    everything = [one for found in right.values() for one in found]
    smallest = right.get(SMALLEST, [])
    return {
        "recall_at_1": round(sum(everything) / len(everything), 4),
        "queries": len(everything),
        "smallest_tool": {"recall_at_1": round(sum(smallest) / max(1, len(smallest)), 4), "queries": len(smallest)},
        "largest_cosine_lost": round(lost, 6),
    }
