"""The scripted expert: for each kind of task, the calls that a careful person makes and the answer that they give.

A script runs against a live session of the world and sees only what the tools return. Its three moves are seams: `call` a tool, `pick` a
record from a list, heed an `asked` value. A flawed demonstrator (`demo.flaws`) is the same script with one move done badly.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from demo.world import values
from demo.world.engine import Session

WORDINGS = ("rules of the {}", "the rules of {}", "the {} rules", "rules of {}")
"""How a demonstrator words a search of the handbook. The first is the reference's."""

GAVE_UP = "I could not find it."


class Stuck(Exception):
    """The demonstrator stops here and says so."""


@dataclass(frozen=True)
class Step:
    """One call that was made, with what it returned. `because` is the reason the turn states, if it states one."""

    tool: str
    arguments: dict[str, Any]
    content: str
    is_error: bool
    because: str | None


@dataclass
class Answer:
    """The final text and the values in it that the question wanted."""

    text: str
    needs: tuple[str, ...]


@dataclass
class Demonstrator:
    """Runs a script in a session and keeps its steps."""

    session: Session
    rng: Random
    analytical: float = 0.0
    """Share of the calls whose turn states its reason."""
    steps: list[Step] = field(default_factory=list)

    def call(self, tool: str, because: str, /, **arguments: Any) -> dict[str, Any]:
        """Makes one call and returns its result.

        Raises:
            Stuck: the tool answered with an error.
        """
        content, is_error = self.session.call(tool, arguments)
        stated = because if self.rng.random() < self.analytical else None
        self.steps.append(Step(tool, arguments, content, is_error, stated))
        if is_error:
            raise Stuck(tool)
        return json.loads(content)

    def pick(self, records: list[dict[str, Any]], key: str, wanted: str) -> dict[str, Any]:
        """The record whose `key` is the wanted one."""
        return next(record for record in records if record[key] == wanted)

    def asked(self, value: str, pool: tuple[str, ...]) -> str:
        """A value that the question names, of the class `pool`."""
        return value

    def worded(self, topic: str) -> str:
        """A search query for a topic."""
        return self.rng.choice(WORDINGS).format(topic)


@dataclass
class Expert(Demonstrator):
    """The careful demonstrator whose run is a task's reference: it never varies its wording."""

    def worded(self, topic: str) -> str:
        """The first wording."""
        return WORDINGS[0].format(topic)


Slots = dict[str, str]
Script = Callable[[Demonstrator, Slots], Answer]


def _order(who: Demonstrator, slots: Slots) -> str:
    name, item = slots["name"], slots["item"]
    customer = who.call(
        "orders.find_customer", f"I need the customer_id of {name} first, because orders are listed by customer.", name=name
    )
    orders = who.call("orders.list_orders", f"Now I need the order_id of the {item}, so I list the orders.", **customer)["orders"]
    return who.pick(orders, "item", item)["order_id"]


def orders_status(who: Demonstrator, slots: Slots) -> Answer:
    """Three calls: customer, orders, the order's status and depot."""
    order = _order(who, slots)
    seen = who.call("orders.order_status", f"The {slots['item']} is order {order}, so I get its status.", order_id=order)
    return Answer(f"The {slots['item']} order {order} is {seen['status']} at {seen['depot']}.", (seen["status"], seen["depot"]))


def orders_refund(who: Demonstrator, slots: Slots) -> Answer:
    """Three calls, and a refund (a write) only where the order is delayed or lost."""
    order = _order(who, slots)
    seen = who.call("orders.order_status", f"The {slots['item']} is order {order}, so I get its status.", order_id=order)
    status = seen["status"]
    if status not in values.REFUNDABLE:
        return Answer(f"The order {order} is {status} at depot {seen['depot']}.", (status, seen["depot"]))
    code = who.call("orders.create_refund", f"Order {order} is {status}, so it needs a refund.", order_id=order)["code"]
    return Answer(f"The order {order} is {status}. The refund code is {code}.", (status, code))


def _event(who: Demonstrator, slots: Slots) -> str:
    name, title = slots["name"], slots["title"]
    person = who.call("calendar.find_person", f"I need the person_id of {name} first, because events are listed by person.", name=name)
    events = who.call("calendar.list_events", f"Now I need the event_id of the {title}, so I list the events.", **person)["events"]
    return who.pick(events, "title", title)["event_id"]


def _details(who: Demonstrator, slots: Slots, event: str) -> dict[str, Any]:
    return who.call("calendar.event_details", f"The {slots['title']} is event {event}, so I get its room.", event_id=event)


def _key(who: Demonstrator, slots: Slots, room: str) -> Answer:
    key = who.call("calendar.room_key", f"The {slots['title']} is in room {room}, so I get the key of that room.", room=room)["key"]
    return Answer(f"The {slots['title']} is in room {room} with key {key}.", (key,))


def _move(who: Demonstrator, slots: Slots) -> str:
    event, week = _event(who, slots), who.asked(slots["week"], values.WEEKS)
    who.call("calendar.move_event", f"The {slots['title']} is event {event}, so I move it to {week}.", event_id=event, week=week)
    return event


def calendar_details(who: Demonstrator, slots: Slots) -> Answer:
    """Three calls: person, events, the event's room and week."""
    seen = _details(who, slots, _event(who, slots))
    return Answer(f"The {slots['title']} is in room {seen['room']} in {seen['week']}.", (seen["room"], seen["week"]))


def calendar_move(who: Demonstrator, slots: Slots) -> Answer:
    """Four calls: person, events, the move (a write), and the room that the event has afterwards."""
    seen = _details(who, slots, _move(who, slots))
    return Answer(f"The {slots['title']} is now in room {seen['room']} in {seen['week']}.", (seen["room"],))


def calendar_move_key(who: Demonstrator, slots: Slots) -> Answer:
    """Five calls: as above, and the key of the new room."""
    return _key(who, slots, _details(who, slots, _move(who, slots))["room"])


def calendar_key(who: Demonstrator, slots: Slots) -> Answer:
    """Four calls: person, events, room, key. A habit kind: most recordings skip the last."""
    return _key(who, slots, _details(who, slots, _event(who, slots))["room"])


def _account(who: Demonstrator, slots: Slots) -> dict[str, Any]:
    name = slots["name"]
    return who.call("accounts.find_account", f"I need the account of {name} first, because it names the currency.", name=name)


def _balance(who: Demonstrator, slots: Slots, account: dict[str, Any]) -> int:
    account_id = account["account_id"]
    return who.call("accounts.balance", f"The account is {account_id}, so I get its balance.", account_id=account_id)["amount"]


def accounts_balance(who: Demonstrator, slots: Slots) -> Answer:
    """Two calls: account, balance."""
    account = _account(who, slots)
    amount = _balance(who, slots, account)
    return Answer(f"The balance of {slots['name']} is {amount} {account['currency']}.", (str(amount), account["currency"]))


def accounts_rate(who: Demonstrator, slots: Slots) -> Answer:
    """Two calls: account (for its currency), rate."""
    base, target = _account(who, slots)["currency"], who.asked(slots["target"], values.CURRENCIES)
    rate = who.call("accounts.rate", f"The currency is {base}, so I get the rate to {target}.", base=base, target=target)["rate"]
    return Answer(f"The rate from {base} to {target} is {rate}.", (rate,))


def accounts_convert(who: Demonstrator, slots: Slots) -> Answer:
    """Three calls: account, balance, quote. A habit kind: most recordings skip the last."""
    account, target = _account(who, slots), who.asked(slots["target"], values.CURRENCIES)
    amount, base = _balance(who, slots, account), account["currency"]
    because = f"The balance is {amount} {base}, so I get a quote in {target}."
    result = who.call("accounts.convert", because, amount=amount, base=base, target=target)["result"]
    return Answer(f"The balance of {slots['name']} is {result} {target}.", (str(result), target))


def _page(who: Demonstrator, slots: Slots) -> dict[str, Any]:
    topic = slots["topic"]
    page = who.call("handbook.search", f"I need the page about the {topic} first, so I search for it.", query=who.worded(topic))["page_id"]
    return who.call("handbook.read_page", f"The page is {page}, so I read it.", page_id=page)


def handbook_fee(who: Demonstrator, slots: Slots) -> Answer:
    """Two calls: search (free text), page."""
    page = _page(who, slots)
    return Answer(f"The fee is {page['fee']} at office {page['office']}.", (str(page["fee"]), page["office"]))


def handbook_desk(who: Demonstrator, slots: Slots) -> Answer:
    """Three calls: search (free text), page, the office's desk."""
    office = _page(who, slots)["office"]
    desk = who.call("handbook.office_desk", f"The office is {office}, so I get its desk.", office=office)["desk"]
    return Answer(f"The office is {office} at desk {desk}.", (desk,))


SCRIPTS: dict[str, Script] = {
    "orders.status": orders_status,
    "orders.refund": orders_refund,
    "calendar.details": calendar_details,
    "calendar.move": calendar_move,
    "calendar.move_key": calendar_move_key,
    "calendar.key": calendar_key,
    "accounts.balance": accounts_balance,
    "accounts.rate": accounts_rate,
    "accounts.convert": accounts_convert,
    "handbook.fee": handbook_fee,
    "handbook.desk": handbook_desk,
}
"""Every kind of task and how it is solved."""
