"""What the service's configuration says of a live tool server: `CACHERL_LIVE_SERVERS` = JSON {name: URL or object}."""

from typing import Literal, Self

from pydantic import model_validator

from cacherl.wire import Wire


class LiveServerSpec(Wire):
    """A live tool server: over plain HTTP, or an MCP server at a URL (streamable HTTP) or behind a command (stdio)."""

    kind: Literal["http", "mcp"] = "http"
    url: str | None = None
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    """Environment of the command besides the few variables that MCP hosts pass on."""

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.url is None) == (self.command is None):
            raise ValueError("a live server has a `url` or a `command`")
        if self.kind == "http" and self.url is None:
            raise ValueError("a live server of kind `http` has a `url`")
        return self


def spec_of(value: str | LiveServerSpec) -> LiveServerSpec:
    """A bare URL is a server of kind `http`."""
    return LiveServerSpec(url=value) if isinstance(value, str) else value
