"""What the pages say is so: commands that exist, links that lead somewhere, and the tutorial's own figures."""

import re
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import httpx2
import pytest
import typer
from typer.testing import CliRunner

from cacherl.api.cache import CacheCreate, LookupCall, LookupItem, LookupRequest
from cacherl.cli.app import app
from cacherl.client import CacheClient
from cacherl.importers import import_file
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "examples/shop.jsonl"
OURS = [
    ROOT / "docs/tutorial.md",
    ROOT / "docs/problems.md",
    *sorted(ROOT.glob("docs/how-to/*.md")),
    *sorted(ROOT.glob("docs/runbooks/*.md")),
]
PAGES = [*OURS, ROOT / "README.md", ROOT / "examples/README.md"]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> list[str]:
    """Every `cacherl …` of a page with something behind it: lines of blocks and spans of text."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(
        r"^ *(?:\.venv/bin/)?(cacherl [a-z].*?)(?: +#.*)?$", "\n".join(re.findall(r"```.*?```", text, re.DOTALL)), re.MULTILINE
    )
    spans = re.findall(r"`(?:\.venv/bin/)?(cacherl [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [*lines, *spans]


def parses(line: str) -> None:
    """Fails where the command or an option of it does not exist."""
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while children := getattr(command, "commands", None):
        if not words:  # a group named on its own
            return
        assert words[0] in children, f"there is no `{line}`"
        command, words = children[words[0]], words[1:]
    if words:  # a command's bare name stands for the command
        command.make_context(line, words)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_on_a_page_exists(page: Path):
    for line in commands(page):
        try:
            parses(line)
        except (click.UsageError, typer.Exit) as error:
            pytest.fail(f"{_name(page)}: `{line}`: {error}")


def test_the_check_sees_commands_and_refuses_wrong_ones():
    assert len(commands(ROOT / "docs/tutorial.md")) >= 12
    with pytest.raises(AssertionError):
        parses("cacherl cache forget c")
    with pytest.raises(Exception, match="--odd"):
        parses("cacherl status --odd")


@pytest.mark.parametrize("page", OURS, ids=_name)
def test_every_link_leads_to_a_file(page: Path):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{_name(page)} links to {link}"
    for path in re.findall(r"`((?:cacherl|docs|examples|services|demo|tests)/[\w./-]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{_name(page)} names {path}"


def test_the_tutorial_shows_what_inspect_prints(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    ran = CliRunner().invoke(app, ["data", "inspect", "examples/shop.jsonl"])
    assert ran.exit_code == 0
    page = [line.split() for line in (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").splitlines()]
    for line in ran.stdout.splitlines():
        assert line.split() in page, f"the tutorial lacks: {line}"


async def test_the_shop_is_answered_as_the_tutorial_says(
    settings: ServiceSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]
):
    key = api_key()
    http = await serve(create(CacheSettings(**settings.model_dump())), key)
    bob, cancel = LookupCall(name="shop.find_order", arguments={"customer": "Bob"}), {"order": "B12"}
    turns = [
        [bob],
        [bob, LookupCall(name="shop.cancel_order", arguments=cancel), bob],
        [LookupCall(name="shop.track_parcel", arguments=cancel)],
    ]
    async with CacheClient(str(http.base_url), key) as client:
        await client.create(CacheCreate(name="shop"))
        assert (await client.ingest("shop", import_file(LOGS), batch="b")).stored == 18
        items = [LookupItem(scenario="shop-may", calls=calls) for calls in turns]
        answer = await client.lookups("shop", LookupRequest(items=items, explain=True))
    (open_,), (_, _, cancelled), (missed,) = [item.results for item in answer.items]
    assert ("open" in str(open_.result.content), "cancelled" in str(cancelled.result.content)) == (True, True)
    assert (missed.outcome, "names a thing" in str(missed.explain)) == ("miss", True)
