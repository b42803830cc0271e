"""What the configuration may say of live servers, and how an MCP result reads."""

from collections.abc import Callable

import pytest
from mcp_types import CallToolResult, ImageContent, TextContent
from pydantic import SecretStr, ValidationError

from cacherl.errors import InputError
from cacherl.state import State
from services.cache_api.live.mcp_server import result_of
from services.cache_api.live.position import Position, joined, position_of, state_part
from services.cache_api.live.spec import LiveServerSpec, spec_of
from services.cache_api.settings import CacheSettings
from services.trainer.settings import TrainerSettings

SERVERS = (
    '{"a": "http://a:1", "b": {"kind": "mcp", "url": "http://b/mcp"}, '
    '"c": {"kind": "mcp", "command": "c", "args": ["-x"]}, "d": {"url": "http://d"}}'
)


def from_environment(kind: Callable[..., CacheSettings]) -> CacheSettings:
    return kind()


def test_the_configuration_names_servers_of_both_kinds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CACHERL_LIVE_SERVERS", SERVERS)
    monkeypatch.setenv("CACHERL_DATABASE_URL", "postgresql:///x")
    monkeypatch.setenv("CACHERL_PEPPER", "p" * 64)
    servers = {name: spec_of(value) for name, value in from_environment(CacheSettings).live_servers.items()}
    assert {name: (spec.kind, spec.url, spec.command) for name, spec in servers.items()} == {
        "a": ("http", "http://a:1", None),
        "b": ("mcp", "http://b/mcp", None),
        "c": ("mcp", None, "c"),
        "d": ("http", "http://d", None),
    }


def test_the_trainer_passes_over_servers_that_cannot_check_a_goal():
    settings = TrainerSettings.model_validate(
        {
            "database_url": "postgresql:///x",
            "pepper": SecretStr("p" * 64),
            "live_servers": {"a": "http://a", "b": {"kind": "mcp", "url": "http://b"}, "d": {"url": "http://d"}},
        }
    )
    assert settings.live_servers == {"a": "http://a", "d": "http://d"}


@pytest.mark.parametrize(
    "said",
    [{}, {"kind": "http", "command": "x"}, {"kind": "mcp"}, {"kind": "mcp", "url": "u", "command": "c"}, {"kind": "ftp", "url": "u"}],
)
def test_a_server_has_one_address_that_fits_its_kind(said: dict[str, str]):
    with pytest.raises(ValidationError):
        LiveServerSpec.model_validate(said)


def test_an_mcp_result_is_its_text_or_what_else_it_holds():
    text, image = TextContent(text="a"), ImageContent(data="AA==", mime_type="image/png")
    assert result_of(CallToolResult(content=[text, TextContent(text="b")])).content == "a\nb"
    assert result_of(CallToolResult(content=[text], is_error=True)).is_error
    assert result_of(CallToolResult(content=[], structured_content={"n": 1})).content == {"n": 1}
    assert result_of(CallToolResult(content=[])).content == ""
    mixed = result_of(CallToolResult(content=[text, image])).content
    assert isinstance(mixed, list)
    assert [block["type"] for block in mixed if isinstance(block, dict)] == ["text", "image"]


def test_a_position_is_read_in_its_own_session_alone():
    state = State.start("viw_1")
    place = Position(3, 70_000, b"x" * 16, live=1 << 300 | 5, known=False)
    token = joined(state, place, "s")
    assert state_part(token) == state.token
    assert position_of(token, "s") == place
    assert position_of(token, "other") is None
    assert position_of(joined(state, Position(1, 0, None), "s"), "s") == Position(1, 0, None)
    assert position_of(joined(state, None, "s"), "s") is None
    assert position_of(None, "s") is None
    for text in ("!", "AA", token.partition(".")[2] + "ü"):
        with pytest.raises(InputError, match="not a state token"):
            position_of(f"{state.token}.{text}", "s")
