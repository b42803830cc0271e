"""What the cache is held against in the same run: the least that a database costs, and GPTCache, the real library (extra `bench`)."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psycopg

from benchmarks.lookup._workload import runs
from cacherl.tool_call import dump_canonical
from services.cache_api.embed import DIMENSION, HashingEmbedder


def timed(ask: Callable[[Any], object], questions: Sequence[Any], seconds: float) -> dict[str, Any]:
    """One caller without a network."""
    took: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() < began + seconds or len(took) < 20:
        started = time.perf_counter()
        ask(questions[len(took) % len(questions)])
        took.append(time.perf_counter() - started)
    took.sort()
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    return {"p50_ms": round(1e3 * p50, 3), "p99_ms": round(1e3 * p99, 3), "per_s": round(len(took) / sum(took)), "requests": len(took)}


def bare_select(dsn: str, cache: str, seconds: float) -> dict[str, Any]:
    """The limit: a prepared `SELECT` of a result by its primary key through psycopg, no transaction, no tenant, no service."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute("select id from cache.entries where cache_id = %s order by md5(id) limit 5000", (cache,)).fetchall()
        connection.execute("set plan_cache_mode = force_generic_plan")
        cursor = connection.cursor()

        def ask(entry: str) -> object:
            cursor.execute("select result::text from cache.entries where cache_id = %s and id = %s", (cache, entry), prepare=True)
            return cursor.fetchone()

        return timed(ask, [row[0] for row in found], seconds)


def question(name: str, arguments: dict[str, Any]) -> str:
    """A call as the text by which GPTCache knows it."""
    return f"{name} {dump_canonical(arguments).decode()}"


def gptcache(entries: int, exact: Sequence[str], near: Sequence[str], seconds: float) -> dict[str, Any]:
    """GPTCache in process, with its exact map and with FAISS and SQLite, filled by its own bulk import; our embedder for its vectors."""
    # Imported here: the library is an extra, and importing it takes seconds.
    from gptcache import Cache, Config  # noqa: PLC0415
    from gptcache.adapter.api import get  # noqa: PLC0415
    from gptcache.manager import CacheBase, VectorBase, get_data_manager  # noqa: PLC0415
    from gptcache.processor.pre import get_prompt  # noqa: PLC0415
    from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation  # noqa: PLC0415

    recorded = {question(name, given): result for run in runs(entries) for name, given, result in run.calls}
    texts, results = list(recorded), list(recorded.values())
    folder = Path(tempfile.mkdtemp(prefix="gptcache-"))
    embedder = HashingEmbedder()
    told: dict[str, Any] = {"entries": len(texts)}
    try:
        plain = Cache()
        plain.init(pre_embedding_func=get_prompt, data_manager=get_data_manager(data_path=str(folder / "map.txt"), max_size=2 * len(texts)))
        began = time.perf_counter()
        plain.import_data(texts, results)
        told["exact"] = {"build_s": round(time.perf_counter() - began, 1), **timed(lambda t: get(t, cache_obj=plain), exact, seconds)}
        store = CacheBase("sqlite", sql_url=f"sqlite:///{folder / 'calls.db'}")
        vectors = VectorBase("faiss", dimension=DIMENSION, index_path=str(folder / "faiss.index"), top_k=1)
        alike = Cache()
        alike.init(
            pre_embedding_func=get_prompt,
            embedding_func=lambda text, **_: np.asarray(embedder.vectors([text])[0], dtype=np.float32),
            data_manager=get_data_manager(store, vectors, max_size=2 * len(texts)),
            similarity_evaluation=SearchDistanceEvaluation(),
            config=Config(similarity_threshold=0.0),
        )
        began = time.perf_counter()
        alike.import_data(texts, results)
        build = round(time.perf_counter() - began, 1)
        told["similar"] = {"build_s": build, **timed(lambda t: get(t, cache_obj=alike), near, seconds)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return told


def main() -> None:
    """In a process of its own (`python -m benchmarks.lookup._rivals`): GPTCache logs and registers what it likes."""
    import sys  # noqa: PLC0415

    asked = orjson.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(b"\n" + orjson.dumps(gptcache(**asked)))


if __name__ == "__main__":
    main()
