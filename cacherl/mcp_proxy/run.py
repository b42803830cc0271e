"""A proxy from its start to its end, over either transport."""

import logging
import sys
from collections.abc import Callable

from cacherl.errors import AwayError, UsageError
from cacherl.mcp_proxy.config import Door, ProxyConfig
from cacherl.mcp_proxy.http import serve_http
from cacherl.mcp_proxy.server import Proxy
from cacherl.mcp_proxy.stdio import serve_stdio

Say = Callable[[str], None]


async def run_stdio(config: ProxyConfig, url: str, key: str | None, warn: Say) -> None:
    """Serves one session on standard input and output. Errors: UsageError without a key; those of the cache API but its being away."""
    if key is None:
        raise UsageError("over standard input and output the proxy needs a key of its own: set CACHERL_KEY or CACHERL_KEY_FILE")
    proxy = Proxy(config, url)
    try:
        await _own(proxy, key, warn)
        await serve_stdio(proxy)
    finally:
        await proxy.close()


async def run_http(config: ProxyConfig, url: str, key: str | None, door: Door, announce: Say, warn: Say) -> None:
    """Serves until a signal comes; `announce` is told the address. Errors: UsageError; those of the cache API but its being away."""
    proxy = Proxy(config, url)
    try:
        if key is not None and door.keyless:
            await _own(proxy, key, warn)
        await serve_http(proxy, door, announce)
    finally:
        await proxy.close()


async def _own(proxy: Proxy, key: str, warn: Say) -> None:
    """Gives the proxy its own key. A wrong key or cache is told now; a service that is away may come back."""
    proxy.own = proxy.caller("", key)
    try:
        await proxy.own.catalogue.snapshot()
    except AwayError as error:
        warn(f"{error.detail}; serving all the same")


def log_to_stderr() -> None:
    """Warnings go to standard error: standard output may be the protocol's."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="cacherl: %(name)s: %(message)s")
