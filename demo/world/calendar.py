"""The calendar: persons, their events, the rooms of events, and moving an event (a write: its room differs afterwards)."""

from random import Random
from typing import Any

from demo.world import values
from demo.world.tool import Arguments, Refusal, Tool, found
from demo.world.town import Changes, Town


def _find_person(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    return {"person_id": found(town.by_name, arguments["name"], "person").person_id}


def _list_events(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    resident = found(town.by_id, arguments["person_id"], "person")
    if resident.person_id != arguments["person_id"]:
        raise Refusal("no such person")
    return {"events": [{"title": meeting.title, "event_id": meeting.event_id} for meeting in resident.meetings]}


def _event_details(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    meeting = found(town.meetings, arguments["event_id"], "event")
    week = changes.moves.get(meeting.event_id, meeting.week)
    return {"room": town.drawn(values.ROOMS, "room", meeting.event_id, week), "week": week}


def _move_event(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    meeting = found(town.meetings, arguments["event_id"], "event")
    week = arguments["week"]
    if week not in values.WEEKS:
        raise Refusal("no such week")
    if week == changes.moves.get(meeting.event_id, meeting.week):
        raise Refusal("already in that week")
    changes.moves[meeting.event_id] = week
    return {"moved": meeting.event_id}


def _room_key(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    if arguments["room"] not in values.ROOMS:
        raise Refusal("no such room")
    return {"key": town.drawn(values.KEYS, "key", arguments["room"])}


def _guess_list(rng: Random, arguments: Arguments) -> dict[str, Any]:
    return {"events": [{"title": title, "event_id": rng.choice(values.MEETINGS)} for title in rng.sample(values.TITLES, 2)]}


TOOLS = (
    Tool(
        "calendar.find_person",
        "Find a person by full name.",
        {"name": "string"},
        _find_person,
        lambda rng, arguments: {"person_id": rng.choice(values.PERSONS)},
    ),
    Tool("calendar.list_events", "List the events of a person.", {"person_id": "string"}, _list_events, _guess_list),
    Tool(
        "calendar.event_details",
        "Get the room and week of an event.",
        {"event_id": "string"},
        _event_details,
        lambda rng, arguments: {"room": rng.choice(values.ROOMS), "week": rng.choice(values.WEEKS)},
    ),
    Tool(
        "calendar.move_event",
        "Move an event to a week.",
        {"event_id": "string", "week": "string"},
        _move_event,
        lambda rng, arguments: {"moved": arguments["event_id"]},
        mutating=True,
    ),
    Tool(
        "calendar.room_key",
        "Get the key of a room.",
        {"room": "string"},
        _room_key,
        lambda rng, arguments: {"key": rng.choice(values.KEYS)},
    ),
)
