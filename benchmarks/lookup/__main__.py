"""How fast the cache answers, and how fast it is filled. Prints one JSON object.

    python -m benchmarks.lookup [--home DIR] [--parts load exact near recall rivals] [--sizes 10000 100000 1000000] [--seconds 2] [--json]

The system is the embedded Postgres with its ordinary settings and the cache service over HTTP on this machine: one process that remembers
nothing, asked what is asked for the first time, and one with its ordinary memory, asked what it was asked before. Clients are closed loops
in this process. Caches are filled through the service, so filling them is a measurement: without an embedder for the exact
tier (at every size), with the hashing one for the near tiers (up to 100,000). Yardsticks of the same run: a bare `SELECT` by primary key
through psycopg, a FastAPI endpoint that does nothing under the same uvicorn, GPTCache in process.

What a part found is kept in the home folder: a part that is there is not measured again (`--again` does), so a run can be taken up where
it stopped. Near tiers are switched on by hand, so that they are measured whether or not these recordings would earn them.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil
import psycopg

from benchmarks.lookup import _asks, _client, _recall, _rivals
from benchmarks.lookup._client import request
from benchmarks.lookup._system import System, memory, running, sizes
from benchmarks.lookup._workload import SPECS, lines
from cacherl.tool_spec import ToolSpec

BATCH = 64
CLIENTS = (1, 16, 64)
DISTINCT = 4_096
AS_OF = "2026-01-01T00:00:00Z"
NEAR_AT_MOST = 100_000
FILLED_AT_ONCE = 50_000
RECALL_QUERIES = 25
Found = dict[str, Any]


class Bench:
    """One run on a running system."""

    def __init__(self, system: System, entries: Sequence[int], seconds: float, found: Found, kept: Path) -> None:
        self.system, self.entries, self.seconds = system, entries, seconds
        self.found, self._kept = found, kept
        self.http = httpx2.Client(base_url=system.url, headers=system.headers, timeout=900)

    def save(self) -> None:
        """Keeps what was found so far."""
        self._kept.write_bytes(orjson.dumps(self.found, option=orjson.OPT_NON_STR_KEYS))

    @property
    def near_entries(self) -> list[int]:
        """Sizes at which the near tiers are measured."""
        return [size for size in self.entries if size <= NEAR_AT_MOST]

    def load(self) -> Found:
        """Fills the caches through the service; entries a second, seconds, sizes on disk, memory. Caches that were filled stay."""
        told: Found = self.found.setdefault("filled", {})
        wanted = [("near", n, "hashing") for n in self.near_entries] + [("exact", n, None) for n in self.entries]
        for kind, size, embedder in wanted:
            label = f"{embedder or 'no embedder'} {size}"
            if label not in told:
                told[label] = self._fill(f"{kind}-{size}", size, embedder)
                self.save()
        with psycopg.connect(self.system.admin, autocommit=True) as connection:
            began = time.perf_counter()
            connection.execute("vacuum analyze")
            vacuum_s = round(time.perf_counter() - began, 1)
        for kind, size, embedder in wanted:
            told[f"{embedder or 'no embedder'} {size}"]["bytes"] = sizes(self.system.admin, self._cache(f"{kind}-{size}")["id"])
        del self.found["filled"]
        return {**told, "vacuum_s": vacuum_s}

    def _fill(self, name: str, size: int, embedder: str | None) -> Found:
        self.http.post("/v1/caches", json={"name": name, "tools": list(SPECS.values()), "settings": {"embedder": embedder}})
        source, seconds, used, peak, stored = lines(size), 0.0, [0.0, 0.0], 0, 0
        while part := list(islice(source, FILLED_AT_ONCE // 8)):
            chunks = (b"".join(part[at : at + 50]) for at in range(0, len(part), 50))
            began, cpu = time.perf_counter(), _cpu(self.system)
            answer = self.http.post(f"/v1/caches/{name}/entries", params={"batch": f"{name}-{stored}"}, content=chunks)
            answer.raise_for_status()
            seconds += time.perf_counter() - began
            used = [sum_ + after - before for sum_, before, after in zip(used, cpu, _cpu(self.system), strict=True)]
            stored += answer.json()["stored"]
            peak = max(peak, memory(self.system.service))
        return {
            "stored": stored,
            "seconds": round(seconds, 1),
            "entries_per_s": round(stored / seconds),
            "cpu_us_per_entry": {"service": round(1e6 * used[0] / stored), "postgres": round(1e6 * used[1] / stored)},
            "service_bytes_at_most": peak,
        }

    def _cache(self, name: str) -> Found:
        answer = self.http.get(f"/v1/caches/{name}")
        answer.raise_for_status()
        return answer.json()

    def _read(self, name: str) -> _asks.Read:
        answer = self.http.get(f"/v1/caches/{name}/tools")
        answer.raise_for_status()
        specs = [ToolSpec.model_validate(one["spec"]) for one in answer.json()["items"]]
        return _asks.Read(self._cache(name)["view"], {spec.name: spec for spec in specs})

    def exact(self) -> Found:
        """Exact lookups, single and in batches, and the yardsticks."""
        told: Found = {"nothing": {}, "caches": {}}
        asked = _asks.exact(_asks.AS_GIVEN, min(self.entries), 512)
        bodies = [orjson.dumps({"items": [one.item]}) for one in asked]
        for kind in ("constant", "json"):
            nothing = [request(f"{self.system.nothing}/{kind}", body, self.system.headers) for body in bodies]
            told["nothing"][kind] = [self._load(self.system.nothing, nothing, clients, 1) for clients in CLIENTS]
        for size in self.entries:
            cache = self._cache(f"exact-{size}")
            limit = _rivals.bare_select(self.system.admin, cache["id"], self.seconds)
            asked = _asks.exact(self._read(cache["name"]), size, DISTINCT)
            how = [(c, b) for b in (1, BATCH) for c in CLIENTS]
            pins = {"revision": cache["revision"], "view": cache["view"], "as_of": AS_OF}
            told["caches"][size] = {
                "first": self._asked(cache["name"], asked, how, "exact"),
                "again": self._asked(cache["name"], asked, how, "exact", again=True),
                "again, pinned": self._asked(cache["name"], asked, how, "exact", again=True, **pins),
            }
            told["caches"][size]["bare_select"] = limit
            told["caches"][size]["memory"] = {"service": memory(self.system.service), "postgres": memory(self.system.postgres)}
        return told

    def _asked(
        self, name: str, asked: Sequence[_asks.Asked], how: Sequence[tuple[int, int]], outcome: str, *, again: bool = False, **more: Any
    ) -> Found:
        """Loads of these lookups; `again`: at the service that remembers what it answered, and every one was asked before."""
        base = self.system.remembering if again else self.system.url
        url = f"{base}/v1/caches/{name}/lookups"
        told: Found = {"distinct": len(asked), "loads": []}
        if again:
            _client.answers(base, self._requests(url, asked, BATCH, more))
        for clients, batch in how:
            requests = self._requests(url, asked, batch, more)
            if "outcomes" not in told:
                told |= self._checked(base, requests[:256], _grouped(asked, batch)[:256], outcome)
            told["loads"].append(self._load(base, requests, clients, batch))
        return told

    def _requests(self, url: str, asked: Sequence[_asks.Asked], batch: int, more: Found) -> list[bytes]:
        bodies = [orjson.dumps({"items": [one.item for one in group], **more}) for group in _grouped(asked, batch)]
        return [request(url, body, self.system.headers) for body in bodies]

    def _checked(self, base: str, requests: list[bytes], groups: Sequence[Sequence[_asks.Asked]], outcome: str) -> Found:
        """The outcomes of a first pass; a lookup that answers otherwise than it should is no measurement."""
        answers = [orjson.loads(body) for body in _client.answers(base, requests)]
        results = [result for answer in answers for one in answer["items"] for result in one["results"]]
        outcomes = Counter(result["outcome"] for result in results)
        if outcomes[outcome] < 0.8 * len(results):
            raise RuntimeError(f"wanted {outcome}, found {dict(outcomes)}")
        asked = [one for group in groups for one in group]
        right = sum(one.answer is None or result["result"]["content"] == one.answer for one, result in zip(asked, results, strict=True))
        return {"outcomes": dict(outcomes), "answered_as_recorded": round(right / len(results), 4)}

    def _load(self, url: str, requests: Sequence[bytes], clients: int, batch: int) -> Found:
        _client.load(url, requests, clients=clients, seconds=self.seconds / 8)
        return _client.load(url, requests, clients=clients, seconds=self.seconds).told(batch)

    def near(self) -> Found:
        """Fuzzy and best-effort lookups of both presets."""
        told: Found = {}
        how = [(1, 1), (16, 1), (1, BATCH)]
        for size in self.near_entries:
            name = f"near-{size}"
            self._switch_on(self._cache(name)["view"])
            read = self._read(name)
            told[str(size)] = {
                "fuzzy, robust": self._asked(name, _asks.reworded(read, size, 1024, alike=True), how, "fuzzy"),
                "best_effort, robust": self._asked(name, _asks.reworded(read, size, 1024, alike=False), how, "best_effort"),
                "best_effort, paper": self._asked(name, self._unlike(name), how, "best_effort", preset="paper"),
                "exact, robust": self._asked(name, _asks.exact(read, size, DISTINCT), [(1, 1), (1, BATCH)], "exact"),
                "memory": {"service": memory(self.system.service), "postgres": memory(self.system.postgres)},
            }
        return told

    def _unlike(self, name: str) -> list[_asks.Asked]:
        """Calls that preset `paper` answers by best effort: neither recorded nor alike one that was."""
        asked = _asks.unseen(1536)
        found: list[_asks.Asked] = []
        for at in range(0, len(asked), BATCH):
            part = asked[at : at + BATCH]
            answers = self._results(name, [one.item for one in part])
            found += [one for one, result in zip(part, answers, strict=True) if result["outcome"] == "best_effort"]
        return found

    def _results(self, name: str, items: Sequence[Found]) -> list[Found]:
        answer = self.http.post(f"/v1/caches/{name}/lookups", json={"items": list(items), "preset": "paper"})
        answer.raise_for_status()
        return [one["results"][0] for one in answer.json()["items"]]

    def _switch_on(self, view: str) -> None:
        said = {"calls": 0, "tasks": 0, "false_hits": 0, "earned": True, "n_required": None}
        calibration = [{"tool": name, "tier": "fuzzy", "fidelity": 0.99, "threshold": 0.8} | said for name in _asks.TEXT_TOOLS]
        calibration += [{"tool": name, "tier": "best_effort", "fidelity": 0.95, "threshold": 0.0} | said for name in _asks.TEXT_TOOLS]
        with psycopg.connect(self.system.admin, autocommit=True) as connection:
            told = orjson.dumps(calibration).decode()
            connection.execute("update cache.views set calibration = %s::json, version = version + 1 where id = %s", (told, view))

    def recall(self) -> Found:
        """The vector search against an exact one."""
        size = max(self.near_entries)
        return {"entries": size, **_recall.recall(size, RECALL_QUERIES, lambda items: self._results(f"near-{size}", items))}

    def rivals(self) -> Found:
        """GPTCache on the same recordings, at the sizes of the near tiers."""
        told: Found = {}
        for size in self.near_entries:
            exact = [one.item["calls"][0] for one in _asks.exact(_asks.AS_GIVEN, size, 1024)]
            near = [one.item["calls"][0] for one in _asks.unseen(1024)]
            asked = {
                "entries": size,
                "exact": [_rivals.question(call["name"], call["arguments"]) for call in exact],
                "near": [_rivals.question(call["name"], call["arguments"]) for call in near],
                "seconds": self.seconds,
            }
            command = [sys.executable, "-m", "benchmarks.lookup._rivals"]
            done = subprocess.run(command, input=orjson.dumps(asked), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
            told[str(size)] = orjson.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else "not installed: the extra `bench`"
        return told


PARTS: dict[str, Callable[[Bench], Found]] = {
    "load": Bench.load,
    "exact": Bench.exact,
    "near": Bench.near,
    "recall": Bench.recall,
    "rivals": Bench.rivals,
}


def _grouped(asked: Sequence[_asks.Asked], batch: int) -> list[Sequence[_asks.Asked]]:
    return [asked[at : at + batch] for at in range(0, len(asked) - batch + 1, batch)]


def _cpu(system: System) -> list[float]:
    """CPU seconds of the service and of Postgres so far."""
    found: list[float] = []
    for process in (system.service, system.postgres):
        total = 0.0
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
        found.append(total)
    return found


def ratios(found: Found) -> Found:
    """What the targets are about."""
    told: Found = {}
    if "exact" in found:
        caches = {int(size): one for size, one in found["exact"]["caches"].items()}
        for how in ("first", "again", "again, pinned"):
            p50 = {n: {(load["clients"], load["batch"]): load["p50_ms"] for load in one[how]["loads"]} for n, one in caches.items()}
            for kind, what in (
                ("json", "FastAPI endpoint that takes and answers JSON (<= 2)"),
                ("constant", "one that answers a constant"),
            ):
                nothing = found["exact"]["nothing"][kind][0]["p50_ms"]
                told[f"exact {how}: p50 / {what}"] = {n: round(one[1, 1] / nothing, 2) for n, one in p50.items()}
            told[f"exact {how}: p50 / bare SELECT"] = {
                n: round(one[1, 1] / caches[n]["bare_select"]["p50_ms"], 2) for n, one in p50.items()
            }
            told[f"exact {how}: batch of 64 / one (<= 4)"] = {n: round(one[1, BATCH] / one[1, 1], 2) for n, one in p50.items()}
            small, large = min(p50), max(p50)
            told[f"exact {how}: p50 at {large} / at {small} (<= 1.5)"] = round(p50[large][1, 1] / p50[small][1, 1], 2)
    if "near" in found and len(found["near"]) > 1:
        sizes_ = sorted(found["near"], key=int)
        for kind in ("fuzzy, robust", "best_effort, robust", "best_effort, paper"):
            small, large = (found["near"][n][kind]["loads"][0]["p50_ms"] for n in (sizes_[0], sizes_[-1]))
            told[f"{kind}: p50 at {sizes_[-1]} / at {sizes_[0]} (<= 3)"] = round(large / small, 2)
    return told


def machine() -> Found:
    """On what it ran."""
    memory_bytes = psutil.virtual_memory().total
    system = {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()}
    return {"cores": os.cpu_count(), "memory_bytes": memory_bytes, **system, "load_average_after": os.getloadavg()}


def main() -> int:
    """Measures the parts that are not there yet, and prints them all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, help="folder of the data and of what was found; default: one that goes afterwards")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--again", action="store_true", help="measure parts again that are there")
    parser.add_argument("--json", action="store_true", help="nothing but JSON is printed anyhow")
    given = parser.parse_args()
    home = given.home or Path(tempfile.mkdtemp(prefix="crl-lookup-"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    kept = home / "lookup.json"
    found: Found = orjson.loads(kept.read_bytes()) if kept.exists() else {}
    missing = [part for part in given.parts if part not in found or (given.again and part != "load")]
    try:
        if missing:
            with running(home) as system:
                bench = Bench(system, sorted(given.sizes), given.seconds, found, kept)
                for part in missing:
                    began = time.perf_counter()
                    sys.stderr.write(f"{part} …\n")
                    found[part] = PARTS[part](bench)
                    found.setdefault("seconds", {})[part] = round(time.perf_counter() - began, 1)
                    bench.save()
        found = orjson.loads(kept.read_bytes()) if kept.exists() else found
        told = {"schema": "cacherl.lookup-benchmark/1", "machine": machine(), "ratios": ratios(found), **found}
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
