"""How fast the embedded engine generates, against transformers' padded `generate` in the same run. Prints one JSON object.

    python -m benchmarks.rollout.engine [--threads 1 2] [--prompts 128] [--group 16]

A 3-layer model of hidden size 96 with random weights, prompts of about 250 ids, up to 60 new ids each, temperature 1. Three cases: all
prompts different; groups of `--group` that share a prompt (what GRPO samples); and a second turn, whose prefix is the first turn's ids and
30 injected ones. The engine is a process of its own, reached through its client over HTTP; tokens a second are sampled tokens over the
wall time of the whole batch, prefill included; `per_cpu_second` is over the CPU time of the process that samples, which a machine that
does other things too disturbs less. End-of-turn ids are banned in both, so both sample the same number.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from cacherl.engine import Completion, GenerationRequest, PolicyVersion, Sampling
from services.rollout.engines import EngineConfig, EngineKind, open_engine

VOCABULARY, END, NEW, PROMPT = 640, 2, 60, (200, 300)
POLICY = PolicyVersion(name="bench", version=0)


def write_model(directory: Path) -> str:
    """Writes the model; the digest of its weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return sha256((directory / "model.safetensors").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Rate:
    """Sampled tokens a second."""

    wall: float
    per_cpu_second: float

    @classmethod
    def best(cls, rates: Sequence["Rate"]) -> dict[str, int]:
        """The largest of each, rounded."""
        return {"wall": round(max(r.wall for r in rates)), "per_cpu_second": round(max(r.per_cpu_second for r in rates))}


@contextmanager
def engine_process(root: Path, threads: int, rows: int) -> Iterator[tuple[str, psutil.Process]]:
    """The engine as a process; yields its address and the process."""
    options = ["--port", "0", "--weights-root", str(root), "--threads", str(threads), "--rows", str(rows)]
    command = [sys.executable, "-m", "services.engine.embedded", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process so far, all its threads."""
    times = process.cpu_times()
    return times.user + times.system


async def measure(url: str, process: psutil.Process, digest: str, prompts: Sequence[list[int]], turns: int = 1) -> list[Rate]:
    """The rate of each turn."""
    engine = open_engine(EngineConfig(kind=EngineKind.EMBEDDED, url=url))
    await engine.load(POLICY, "bench", digest)
    sampling, rates, prefixes = Sampling(max_tokens=NEW, min_tokens=NEW, seed=1), list[Rate](), list(prompts)
    for _ in range(turns):
        requests = [GenerationRequest(id=str(n), episode=str(n), ids=ids, sampling=sampling) for n, ids in enumerate(prefixes)]
        started, cpu = time.perf_counter(), cpu_seconds(process)
        completions: list[Completion] = [item async for item in engine.generate(POLICY, requests)]
        count = sum(len(item.ids) for item in completions)
        rates.append(Rate(count / (time.perf_counter() - started), count / (cpu_seconds(process) - cpu)))
        sampled = {int(item.id): item.ids for item in completions}
        prefixes = [ids + sampled[n] + random.Random(n).choices(range(3, VOCABULARY), k=30) for n, ids in enumerate(prefixes)]
    await engine.forget([str(n) for n in range(len(prompts))])
    await engine.close()
    return rates


@torch.inference_mode()
def transformers_rate(model: Qwen3ForCausalLM, prompts: Sequence[list[int]]) -> Rate:
    """The rate of one padded `generate` over all prompts."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    started, cpu = time.perf_counter(), time.process_time()
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=True, top_k=0)
    count = out[:, width:].numel()
    return Rate(count / (time.perf_counter() - started), count / (time.process_time() - cpu))


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many is given")
    args = parser.parse_args()
    logging.disable_progress_bar()
    draw = random.Random(0)

    def fresh(count: int) -> list[list[int]]:
        return [draw.choices(range(3, VOCABULARY), k=draw.randint(*PROMPT)) for _ in range(count)]

    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        digest = write_model(root / "bench")
        model = Qwen3ForCausalLM.from_pretrained(root / "bench", dtype=torch.float32).eval()
        for threads in args.threads:
            torch.set_num_threads(threads)
            with engine_process(root, threads, args.prompts) as (url, process):

                def run(prompts: Sequence[list[int]], turns: int = 1, url: str = url, process: psutil.Process = process) -> list[Rate]:
                    return asyncio.run(measure(url, process, digest, prompts, turns))

                run(fresh(8))
                different = [run(fresh(args.prompts), 2) for _ in range(args.repeats)]
                shared = [fresh(args.prompts // args.group) * args.group for _ in range(args.repeats)]
                grouped = [run(prompts)[0] for prompts in shared]
            plain = [transformers_rate(model, fresh(args.prompts)) for _ in range(args.repeats)]
            result = {
                "different": Rate.best([rates[0] for rates in different]),
                "second_turn": Rate.best([rates[1] for rates in different]),
                "groups": Rate.best(grouped),
                "transformers_generate": Rate.best(plain),
            }
            ratio = round(result["different"]["per_cpu_second"] / result["transformers_generate"]["per_cpu_second"], 2)
            results.append({"threads": threads, **result, "ratio": ratio})
    settings = {"prompts": args.prompts, "prompt_ids": PROMPT, "new_ids": NEW, "group": args.group, "cpus": os.cpu_count()}
    print(json.dumps({"unit": "sampled tokens per second", **settings, "load_average": os.getloadavg()[0], "results": results}, indent=2))


if __name__ == "__main__":
    main()
