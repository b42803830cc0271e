"""The town's handbook: a search by free text, pages, and the desks of offices.

The search reads the words of a query and finds the page whose topic they name, in whatever order and with whatever words between, so
several wordings have one result; a query that names half a topic finds nothing.
"""

import re
from typing import Any

from demo.world import values
from demo.world.tool import Arguments, Refusal, Tool, found
from demo.world.town import Changes, Town


def _search(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    words = set(re.findall(r"[a-z]+", arguments["query"].lower()))
    pages = [page for page in town.pages if words.issuperset(page.topic.lower().split())]
    if len(pages) != 1:
        raise Refusal("no page found")
    return {"page_id": pages[0].page_id}


def _read_page(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    page = found(town.pages_by_id, arguments["page_id"], "page")
    return {"office": page.office, "fee": page.fee}


def _office_desk(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    if arguments["office"] not in values.OFFICES:
        raise Refusal("no such office")
    return {"desk": town.drawn(values.DESKS, "desk", arguments["office"])}


def _page_week(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    page = found(town.pages_by_id, arguments["page_id"], "page")
    return {"week": town.drawn(values.WEEKS, "page", page.page_id)}


TOOLS = (
    Tool(
        "handbook.search",
        "Search the handbook.",
        {"query": "string"},
        _search,
        lambda rng, arguments: {"page_id": rng.choice(values.PAGES)},
    ),
    Tool(
        "handbook.read_page",
        "Get the office and fee of a page.",
        {"page_id": "string"},
        _read_page,
        lambda rng, arguments: {"office": rng.choice(values.OFFICES), "fee": rng.choice(values.AMOUNTS)},
    ),
    Tool(
        "handbook.office_desk",
        "Get the desk of an office.",
        {"office": "string"},
        _office_desk,
        lambda rng, arguments: {"desk": rng.choice(values.DESKS)},
    ),
    Tool(
        "handbook.page_week",
        "Get the week of a page.",
        {"page_id": "string"},
        _page_week,
        lambda rng, arguments: {"week": rng.choice(values.WEEKS)},
    ),
)
