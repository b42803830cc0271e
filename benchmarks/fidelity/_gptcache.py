"""The real GPTCache library (extra `bench`) on the same calls: SQLite and FAISS as it makes them, our hashing embedder for vectors.

One pass gives every threshold: the library is asked with none, its own evaluation says the score of what it serves, and a threshold serves
exactly the answers whose score reaches it. A call whose text is stored already is not stored again, as in the library's use a hit stops
the call that would be stored.
"""

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from gptcache import Cache, Config
from gptcache.adapter.api import get, put
from gptcache.manager import CacheBase, VectorBase, get_data_manager
from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation

from benchmarks.fidelity._baselines import Verdict, digest
from cacherl.fidelity.replayed_call import ReplayedCall
from cacherl.tool_spec import ToolSpec
from services.cache_api.embed import DIMENSION, HashingEmbedder

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
OWN = 0.8
"""The library's default."""
RANGE = 4.0
"""Of the evaluation's score: squared distances of unit vectors."""


def verdicts(record: Sequence[ReplayedCall], replay: Sequence[ReplayedCall], specs: Mapping[str, ToolSpec]) -> dict[float, list[Verdict]]:
    """By threshold."""
    scores: list[float] = []

    class Evaluation(SearchDistanceEvaluation):
        """The library's own, which tells what it found."""

        def evaluation(self, src_dict: dict[str, Any], cache_dict: dict[str, Any], **options: Any) -> float:
            scores.append(float(super().evaluation(src_dict, cache_dict, **options)))
            return scores[-1]

    embedder = HashingEmbedder()
    folder = tempfile.mkdtemp(prefix="gptcache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # before the library's own, which writes its index when the process ends
    manager = get_data_manager(
        CacheBase("sqlite", sql_url=f"sqlite:///{Path(folder) / 'calls.db'}"),
        VectorBase("faiss", dimension=DIMENSION, index_path=str(Path(folder) / "faiss.index")),
        max_size=len(record) + 1,
    )
    cache = Cache()
    cache.init(
        pre_embedding_func=lambda data, **_: data["prompt"],
        embedding_func=lambda text, **_: np.asarray(embedder.vectors([text])[0], dtype=np.float32),
        data_manager=manager,
        similarity_evaluation=Evaluation(),
        config=Config(similarity_threshold=0.0),
    )
    for text, call in {text_of(call): call for call in reversed(record)}.items():
        put(text, digest(call, specs).hex(), cache_obj=cache)
    found: list[tuple[float, bool] | None] = []
    for call in replay:
        scores.clear()
        served = get(text_of(call), cache_obj=cache, top_k=1)
        found.append((scores[-1] / RANGE, served == digest(call, specs).hex()) if served is not None and scores else None)
    return {limit: [one[1] if one is not None and one[0] >= limit else None for one in found] for limit in THRESHOLDS}


def text_of(call: ReplayedCall) -> str:
    """What is embedded: tool and arguments as sorted JSON."""
    return f"{call.call.name} {orjson.dumps(call.call.arguments, option=orjson.OPT_SORT_KEYS).decode()}"
