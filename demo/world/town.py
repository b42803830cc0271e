"""A town: one small database, made from its name alone, never changed.

Towns are the scenarios of the demo: two towns share no record, and what a tool answers depends on the town and on what the session did
there (`Changes`). Towns numbered from `VALIDATION_FROM` on are held out: their names and topics are pairs that no training town has.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

from demo.world import values

VALIDATION_FROM = 500
"""Towns from this number on are for validation."""

RESIDENTS = 4
PAGES = 4

_NAME = re.compile(r"^town-(\d{3})$")


class UnknownTown(ValueError):
    """There is no town of that name."""


@dataclass(frozen=True)
class Order:
    """One order of a customer."""

    order_id: str
    item: str
    status: str
    depot: str


@dataclass(frozen=True)
class Meeting:
    """One event in a person's calendar; `week` is where it stands before anyone moves it."""

    event_id: str
    title: str
    week: str


@dataclass(frozen=True)
class Resident:
    """A person with an id in each of the three domains that know people."""

    name: str
    customer_id: str
    person_id: str
    account_id: str
    currency: str
    amount: int
    orders: tuple[Order, ...]
    meetings: tuple[Meeting, ...]


@dataclass(frozen=True)
class Page:
    """A page of the town's handbook."""

    page_id: str
    topic: str
    office: str
    fee: int


@dataclass
class Changes:
    """What a session changed in its town: the whole mutable state. Empty at the start."""

    refunds: dict[str, str] = field(default_factory=dict)
    """Order → refund code."""
    moves: dict[str, str] = field(default_factory=dict)
    """Event → the week that it was moved to."""

    def plain(self) -> dict[str, Any]:
        """As JSON, for goals and comparisons."""
        return {"refunds": dict(sorted(self.refunds.items())), "moves": dict(sorted(self.moves.items()))}


@dataclass(frozen=True)
class Town:
    """A town's records, with an index for each way in which a tool looks them up."""

    name: str
    residents: tuple[Resident, ...]
    pages: tuple[Page, ...]
    by_name: dict[str, Resident]
    by_id: dict[str, Resident]
    """Customer, person and account ids alike: their letters differ."""
    orders: dict[str, Order]
    meetings: dict[str, Meeting]
    pages_by_id: dict[str, Page]

    def drawn(self, choices: tuple[Any, ...], *key: object) -> Any:
        """A value that the town fixes for `key` (the room of an event in a week, the rate between two currencies)."""
        return Random("|".join([self.name, *map(str, key)])).choice(choices)

    @property
    def validation(self) -> bool:
        """Whether this town is held out."""
        return is_validation(self.name)


def town_name(number: int) -> str:
    """`town-017`."""
    return f"town-{number:03d}"


def is_validation(name: str) -> bool:
    """Whether the town of that name is held out.

    Raises:
        UnknownTown: the name is not that of a town.
    """
    match = _NAME.match(name)
    if match is None:
        raise UnknownTown(f"no town is called {name!r}: towns are town-000 to town-999")
    return int(match[1]) >= VALIDATION_FROM


@lru_cache(maxsize=2048)
def town(name: str) -> Town:
    """The town of that name; the same name always gives the same records.

    Raises:
        UnknownTown: the name is not that of a town.
    """
    validation = is_validation(name)
    rng = Random(f"town|{name}")
    residents = tuple(_residents(rng, validation=validation))
    pages = tuple(_pages(rng, validation=validation))
    return Town(
        name=name,
        residents=residents,
        pages=pages,
        by_name={r.name: r for r in residents},
        by_id={key: r for r in residents for key in (r.customer_id, r.person_id, r.account_id)},
        orders={o.order_id: o for r in residents for o in r.orders},
        meetings={m.event_id: m for r in residents for m in r.meetings},
        pages_by_id={p.page_id: p for p in pages},
    )


def _residents(rng: Random, *, validation: bool) -> list[Resident]:
    names: list[str] = []
    while len(names) < RESIDENTS:
        name = values.pair(rng, values.FIRST_NAMES, values.LAST_NAMES, validation=validation)
        if name not in names:
            names.append(name)
    customers, persons, accounts = (rng.sample(pool, RESIDENTS) for pool in (values.CUSTOMERS, values.PERSONS, values.ACCOUNTS))
    order_ids, event_ids = iter(rng.sample(values.ORDERS, 3 * RESIDENTS)), iter(rng.sample(values.MEETINGS, 3 * RESIDENTS))
    return [
        Resident(
            name=name,
            customer_id=customers[i],
            person_id=persons[i],
            account_id=accounts[i],
            currency=rng.choice(values.CURRENCIES),
            amount=rng.choice(values.AMOUNTS),
            orders=tuple(
                Order(next(order_ids), item, rng.choice(values.STATUSES), rng.choice(values.CITIES))
                for item in rng.sample(values.ITEMS, rng.choice((2, 2, 3)))
            ),
            meetings=tuple(
                Meeting(next(event_ids), title, rng.choice(values.WEEKS)) for title in rng.sample(values.TITLES, rng.choice((2, 2, 3)))
            ),
        )
        for i, name in enumerate(names)
    ]


def _pages(rng: Random, *, validation: bool) -> list[Page]:
    topics: list[str] = []
    while len(topics) < PAGES:
        topic = values.pair(rng, values.PLACES, values.EVENTS, validation=validation)
        if topic not in topics:
            topics.append(topic)
    ids, offices = rng.sample(values.PAGES, PAGES), rng.sample(values.OFFICES, PAGES)
    return [Page(ids[i], topic, offices[i], rng.choice(values.AMOUNTS)) for i, topic in enumerate(topics)]
