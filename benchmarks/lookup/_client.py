"""Load over HTTP that costs next to nothing itself: requests are bytes made beforehand, an answer is read to its length and not parsed.

A closed loop: each client holds one connection and sends its next request when the answer has come. What is measured is the time from the
first byte out to the last byte in.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvloop

LENGTH = b"content-length: "
READ = 1 << 20


@dataclass(frozen=True)
class Load:
    """What a number of clients saw."""

    clients: int
    requests: int
    p50_ms: float
    p99_ms: float
    per_second: float

    def told(self, lookups: int = 1) -> dict[str, Any]:
        """As JSON; `lookups` is how many each request held."""
        return {
            "clients": self.clients,
            "batch": lookups,
            "requests": self.requests,
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "lookups_per_s": round(self.per_second * lookups),
        }


def request(url: str, body: bytes, headers: Mapping[str, str] = {}) -> bytes:
    """A POST as it goes over the wire."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> bytes:
    """Sends a request and gives the answer's body; RuntimeError for an answer that is not 200."""
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.partition(b"\r\n")[0].decode())
    lower = head.lower()
    start = lower.index(LENGTH) + len(LENGTH)
    return await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))


async def _client(url: str, requests: Sequence[bytes], until: float, least: int) -> list[float]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=READ)
    took: list[float] = []
    clock = time.perf_counter
    while len(took) < least or clock() < until:
        started = clock()
        await exchange(reader, writer, requests[len(took) % len(requests)])
        took.append(clock() - started)
    writer.close()
    return took


async def _load(url: str, requests: Sequence[bytes], clients: int, seconds: float, least: int) -> Load:
    share = [requests[number::clients] or requests for number in range(clients)]
    started = time.perf_counter()
    found = await asyncio.gather(*[_client(url, mine, started + seconds, least) for mine in share])
    spent = time.perf_counter() - started
    took = sorted(one for times in found for one in times)
    return Load(clients, len(took), 1e3 * took[len(took) // 2], 1e3 * took[int(len(took) * 0.99)], len(took) / spent)


def load(url: str, requests: Sequence[bytes], *, clients: int = 1, seconds: float = 2.0, least: int = 10) -> Load:
    """Closed-loop load for `seconds`, at least `least` requests a client."""
    return uvloop.run(_load(url, requests, clients, seconds, least))


def answers(url: str, requests: Sequence[bytes]) -> list[bytes]:
    """The bodies of the answers, one after the other."""

    async def run() -> list[bytes]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=READ)
        found = [await exchange(reader, writer, sent) for sent in requests]
        writer.close()
        return found

    return uvloop.run(run())
