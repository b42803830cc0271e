"""Recordings that look like those of tool-calling agents, and lookups of them: synthetic, seeded, the same on every machine.

Twenty-four tools of an office, a shop, a travel desk and a database, used as unevenly as real ones are (Zipf). A trajectory is eight
calls in one of two hundred scenarios; a third of the tools change something, so states differ. Arguments mix ids, enums, dates, numbers
and short texts; a result is a JSON document of 100 to 600 bytes. The number of entries decides how many trajectories there are and
nothing else: the first 10,000 entries are the same in a cache of a million.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

SEED = 20_260
CALLS = 8
SCENARIOS = 200
SMALLEST = "registry.find_permit"
"""The rarest tool: it has about 40 recordings whatever the cache's size."""
SMALLEST_CALLS = 40
Call = tuple[str, dict[str, Any], str]
"""Tool, arguments, result."""
Tool = tuple[str, dict[str, Any], list[str], bool, str]
"""Name, properties, required ones, whether it changes something, scope."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TEXT, ID, DATE, COUNT = {"type": "string"}, {"type": "string"}, {"type": "string", "format": "date"}, {"type": "integer"}
PLACE = {
    "type": "string",
    "enum": ["Oslo", "Lima", "Quito", "Porto", "Turin", "Kyoto", "Perth", "Accra", "Tunis", "Hanoi", "Leeds", "Davos"],
}
SORT = {"type": "string", "enum": ["date", "price", "name"], "default": "date"}
TOOLS: list[Tool] = [
    ("shop.get_order", {"order_id": ID}, ["order_id"], False, "identifier"),
    ("mail.search", {"query": TEXT, "sort": SORT, "limit": COUNT}, ["query"], False, "none"),
    ("shop.get_customer", {"customer_id": ID}, ["customer_id"], False, "identifier"),
    (
        "travel.find_flights",
        {"origin": PLACE, "destination": PLACE, "date": DATE, "passengers": COUNT},
        ["origin", "destination", "date"],
        False,
        "none",
    ),
    ("office.search_notes", {"query": TEXT, "folder": TEXT}, ["query"], False, "none"),
    (
        "shop.update_order",
        {"order_id": ID, "status": {"type": "string", "enum": ["held", "sent", "paid", "void"]}, "note": TEXT},
        ["order_id", "status"],
        True,
        "identifier",
    ),
    ("base.query", {"statement": TEXT}, ["statement"], False, "group"),
    ("travel.weather", {"city": PLACE, "date": DATE}, ["city", "date"], False, "none"),
    ("mail.send", {"to": ID, "subject": TEXT, "body": TEXT}, ["to", "subject", "body"], True, "group"),
    ("office.list_events", {"start": DATE, "end": DATE, "owner": ID}, ["start", "end"], False, "group"),
    (
        "shop.find_products",
        {"query": TEXT, "filters": {"type": "object", "properties": {"max_price": {"type": "number"}, "in_stock": {"type": "boolean"}}}},
        ["query"],
        False,
        "none",
    ),
    ("office.create_event", {"title": TEXT, "start": DATE, "guests": {"type": "array", "items": ID}}, ["title", "start"], True, "group"),
    ("travel.find_hotels", {"city": PLACE, "nights": COUNT, "stars": COUNT}, ["city", "nights"], False, "none"),
    ("base.insert", {"table": TEXT, "row": {"type": "object"}}, ["table", "row"], True, "group"),
    ("shop.track_parcel", {"tracking": ID}, ["tracking"], False, "identifier"),
    ("mail.read", {"message_id": ID}, ["message_id"], False, "identifier"),
    ("travel.book_flight", {"flight": ID, "passengers": COUNT}, ["flight"], True, "group"),
    ("office.read_file", {"path": TEXT}, ["path"], False, "identifier"),
    ("shop.refund", {"order_id": ID, "amount": {"type": "number"}}, ["order_id", "amount"], True, "identifier"),
    ("base.describe", {"table": TEXT}, ["table"], False, "none"),
    ("travel.convert", {"amount": {"type": "number"}, "from": TEXT, "to": TEXT}, ["amount", "from", "to"], False, "none"),
    ("office.write_file", {"path": TEXT, "content": TEXT}, ["path", "content"], True, "identifier"),
    ("mail.delete", {"message_id": ID}, ["message_id"], True, "identifier"),
    (SMALLEST, {"query": TEXT, "district": PLACE}, ["query"], False, "none"),
]
WORDS = _words(
    "annual report garden party invoice overdue meeting budget draft delivery broken handle window blue jacket winter sale ticket refund "
    "question about parking permit renewal summer schedule travel expenses quarterly figures team lunch project harbour bridge inspection "
    "water supply school trip music festival volunteer list safety training new laptop request password printer paper contract signature "
    "supplier price change customer complaint late train hotel breakfast conference room projector cable minutes agenda vote"
)
STATEMENTS = (
    "SELECT name, total FROM orders WHERE status = '{a}' AND total > {n} ORDER BY total DESC LIMIT {m}",
    "SELECT count(*) FROM {a}_{b} WHERE created_at >= '{d}'",
    "SELECT c.name, sum(o.total) FROM customers c JOIN orders o ON o.customer = c.id WHERE c.city = '{a}' GROUP BY c.name "
    "HAVING sum(o.total) > {n}",
)


def spec(tool: Tool) -> dict[str, Any]:
    """A tool in OpenAI form with its annotations."""
    name, properties, required, mutating, scope = tool
    parameters = {"type": "object", "properties": properties, "required": required}
    described = f"{name.replace('.', ' ').replace('_', ' ')}."
    return {
        "type": "function",
        "function": {"name": name, "description": described, "parameters": parameters},
        "annotations": {"mutating": mutating, "scope": scope},
    }


SPECS = {tool[0]: spec(tool) for tool in TOOLS}
_COMMON = [tool for tool in TOOLS if tool[0] != SMALLEST]
_WEIGHTS = [1 / (rank + 1) ** 0.9 for rank in range(len(_COMMON))]


@dataclass(frozen=True, slots=True)
class Run:
    """One trajectory before it is written down."""

    number: int
    calls: list[Call]

    @property
    def scenario(self) -> str:
        """Where it happened."""
        return f"desk-{self.number % SCENARIOS}"

    @property
    def source(self) -> str:
        """Its id."""
        return f"run-{self.number:07d}"


def text(random_: random.Random, least: int = 3, most: int = 9) -> str:
    """Some words."""
    return " ".join(random_.choices(WORDS, k=random_.randint(least, most)))


def value(name: str, schema: dict[str, Any], random_: random.Random) -> Any:  # noqa: PLR0911 - one for each kind of schema
    """An argument that fits its schema."""
    match schema:
        case {"enum": choices}:
            return random_.choice(choices)
        case {"format": "date"}:
            return f"2026-{random_.randint(1, 12):02d}-{random_.randint(1, 28):02d}"
        case {"type": "integer"}:
            return random_.randint(1, 9)
        case {"type": "number"}:
            return random_.randint(100, 99_999) / 100
        case {"type": "boolean"}:
            return random_.random() < 0.5
        case {"type": "array"}:
            return [value("guest_id", schema["items"], random_) for _ in range(random_.randint(1, 3))]
        case {"type": "object", "properties": properties}:
            return {key: value(key, inner, random_) for key, inner in properties.items()}
        case {"type": "object"}:
            return {word: random_.randint(1, 500) for word in random_.sample(WORDS, 3)}
        case _:
            return _string(name, random_)


def _string(name: str, random_: random.Random) -> str:
    number = random_.randint(0, 60_000)
    if name.endswith("_id") or name in ("tracking", "flight"):
        return f"{name[:3].upper()}{number:05d}"
    if name in ("to", "owner"):
        return f"{random_.choice(WORDS)}.{random_.choice(WORDS)}@example.org"
    if name == "statement":
        a, b = random_.choice(WORDS), random_.choice(WORDS)
        date = f"2026-{random_.randint(1, 12):02d}-01"
        return random_.choice(STATEMENTS).format(a=a, b=b, n=random_.randint(1, 900), m=random_.randint(1, 50), d=date)
    if name == "path":
        return f"/shared/{random_.choice(WORDS)}/{random_.choice(WORDS)}-{number % 2000}.txt"
    if name in ("table", "folder", "from"):
        return random_.choice(WORDS)
    return text(random_, 12, 30) if name in ("body", "content") else text(random_)


def arguments(tool: Tool, random_: random.Random) -> dict[str, Any]:
    """Arguments of one call: the required ones, the others half of the time."""
    _, properties, required, _, _ = tool
    return {name: value(name, schema, random_) for name, schema in properties.items() if name in required or random_.random() < 0.5}


def result(random_: random.Random) -> str:
    """A JSON document as text."""
    rows = [
        {"id": f"R{random_.randint(0, 99_999):05d}", "title": text(random_, 2, 5), "amount": random_.randint(100, 99_999) / 100}
        for _ in range(random_.randint(1, 6))
    ]
    return orjson.dumps({"status": "ok", "count": len(rows), "items": rows}).decode()


def one_run(number: int) -> Run:
    """The trajectory of that number."""
    random_ = random.Random(SEED + number)
    chosen = random_.choices(_COMMON, weights=_WEIGHTS, k=CALLS)
    if number % 25 == 0 and number < 25 * SMALLEST_CALLS:
        chosen[0] = TOOLS[-1]
    return Run(number, [(tool[0], arguments(tool, random_), result(random_)) for tool in chosen])


def runs(entries: int) -> Iterator[Run]:
    """The trajectories of a cache of that many entries."""
    return map(one_run, range(entries // CALLS))


def trajectory(run: Run) -> dict[str, Any]:
    """A line of the ingestion: a whole trajectory with the specs of its tools."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Please take care of the desk's open questions."}]
    for place, (name, given, answer) in enumerate(run.calls):
        made = {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": given}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": f"c{place}", "content": answer},
        ]
    tools = [SPECS[name] for name in sorted({name for name, _, _ in run.calls})]
    return {"id": run.source, "messages": messages, "tools": tools, "scenario": run.scenario, "task_id": f"task-{run.number % 5000}"}


def single(run: Run, place: int) -> dict[str, Any]:
    """A line of the ingestion: one call on its own, without a history."""
    name, given, answer = run.calls[place]
    call = {"name": name, "arguments": given}
    return {"call": call, "result": {"content": answer}, "scenario": run.scenario, "source": run.source, "step": place}


def lines(entries: int) -> Iterator[bytes]:
    """NDJSON of whole trajectories."""
    for run in runs(entries):
        yield orjson.dumps(trajectory(run)) + b"\n"
