"""What a proxy serves, to whom, and how it asks. Nothing here needs the extra `mcp`."""

import ipaddress

from pydantic import Field

from cacherl.api.cache import Mode, Select
from cacherl.errors import UsageError
from cacherl.mcp_proxy.names import NameRule
from cacherl.tier import Preset
from cacherl.wire import Wire

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class EpisodeName(Wire):
    """Which episode a session is: what is said of it, all of it optional."""

    scenario: str | None = None
    task: str | None = Field(default=None, min_length=1)
    episode: int | None = Field(default=None, ge=0)
    exclude_sources: list[str] | None = None

    def over(self, other: "EpisodeName") -> "EpisodeName":
        """This where it says something, else the other."""
        return EpisodeName.model_validate({**other.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})


class ProxyConfig(Wire):
    """What a proxy serves, and how it asks."""

    cache: str
    mode: Mode = "replay"
    preset: Preset | None = None
    revision: int | None = None
    view: str | None = None
    select: Select = "majority"
    run: str | None = None
    """Names the sessions' recordings in live modes; null: one of this process."""
    run_seed: int = 0
    budget: int | None = Field(default=None, ge=0)
    """Live calls that the run may make in all; null: as the cache's settings say."""
    explain: bool = False
    names: NameRule = NameRule.MCP
    episode: EpisodeName = EpisodeName()
    """What a session is unless it says otherwise."""


class Door(Wire):
    """Where the proxy listens over HTTP and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """0: a free one."""
    require_key: bool = False
    hosts: list[str] = []
    """Names under which clients reach it, as they stand in the Host header (`name` or `name:port`); loopback needs none."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = _address(self.host)
        return self.host == "localhost" or (address is not None and address.is_loopback)

    @property
    def keyless(self) -> bool:
        """Whether one may come in without a key."""
        return self.loopback and not self.require_key

    def known_hosts(self) -> list[str]:
        """The Host headers that are let in; `:*` is any port. Errors: UsageError where nobody can know them."""
        names = [*self.hosts, *(LOOPBACK if self.loopback else ())]
        if not names:
            address = _address(self.host)
            if address is not None and address.is_unspecified:
                raise UsageError(f"{self.host} is every address of this machine: say with --allowed-host by which names clients reach it")
            names = [self.in_url]
        return [form for name in names for form in ((name,) if _has_port(name) else (name, f"{name}:*"))]

    @property
    def in_url(self) -> str:
        """The address as it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and ":" in name and not name.endswith("]")
