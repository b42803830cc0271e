"""The world: the same calls give the same answers, writes change later reads, bad calls are refused readably."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.world import values
from demo.world.engine import ANSWER_LIMIT, DOMAINS, TOOLS, Goal, Session, names
from demo.world.town import Changes, UnknownTown, town, town_name

UNCHANGED = Changes().plain()


def ask(session: Session, tool: str, **arguments: object) -> dict:
    content, is_error = session.call(tool, arguments)
    assert not is_error, content
    return json.loads(content)


def test_the_world_has_the_size_that_the_demo_promises():
    assert len(DOMAINS) >= 4
    assert len(TOOLS) >= 16
    assert all(4 <= len(tools) <= 5 for tools in DOMAINS.values())
    assert sum(any(tool.mutating for tool in tools) for tools in DOMAINS.values()) >= 2


def test_every_class_of_copied_values_is_open_and_has_no_duplicates():
    for name, pool in vars(values).items():
        if isinstance(pool, tuple) and name != "STATUSES":
            assert len(pool) >= 30, name
            assert len(set(pool)) == len(pool), name


@given(st.integers(0, 999))
def test_a_town_is_made_from_its_name_alone(number: int):
    name = town_name(number)
    kept = town(name)
    town.cache_clear()
    assert town(name) == kept


@given(st.integers(0, 499), st.integers(500, 999))
def test_names_and_topics_of_held_out_towns_are_in_no_training_town(training: int, validation: int):
    for position, ours in ((training, False), (validation, True)):
        place = town(town_name(position))
        for resident in place.residents:
            first, last = resident.name.split()
            assert values.held_out(values.FIRST_NAMES.index(first), values.LAST_NAMES.index(last)) is ours
        for page in place.pages:
            first, second = page.topic.split()
            assert values.held_out(values.PLACES.index(first), values.EVENTS.index(second)) is ours


@pytest.mark.parametrize("name", ["", "town-1", "town-0001", "village-001", "town-abc"])
def test_an_unknown_town_is_an_error(name: str):
    with pytest.raises(UnknownTown, match="no town is called"):
        Session(name)


@given(st.integers(0, 999), st.data())
def test_a_moved_event_is_read_back_in_its_new_week_and_another_session_does_not_see_it(number: int, data: st.DataObject):
    session, other = Session(town_name(number)), Session(town_name(number))
    meeting = data.draw(st.sampled_from(list(session.town.meetings.values())))
    week = data.draw(st.sampled_from([week for week in values.WEEKS if week != meeting.week]))
    before = ask(session, "calendar.event_details", event_id=meeting.event_id)
    ask(session, "calendar.move_event", event_id=meeting.event_id, week=week)
    after = ask(session, "calendar.event_details", event_id=meeting.event_id)
    assert before["week"] == meeting.week
    assert after["week"] == week
    assert ask(other, "calendar.event_details", event_id=meeting.event_id) == before
    assert session.changes.plain() == {"refunds": {}, "moves": {meeting.event_id: week}}


@given(st.integers(0, 999), st.data())
def test_a_refund_shows_in_the_status_and_is_given_once(number: int, data: st.DataObject):
    session = Session(town_name(number))
    order = data.draw(st.sampled_from(sorted(session.town.orders)))
    before = ask(session, "orders.order_status", order_id=order)
    code = ask(session, "orders.create_refund", order_id=order)["code"]
    after = ask(session, "orders.order_status", order_id=order)
    assert before["status"] != "refunded"
    assert after == before | {"status": "refunded"}
    assert session.call("orders.create_refund", {"order_id": order}) == ('{"error": "already refunded"}', True)
    assert session.changes.plain() == {"refunds": {order: code}, "moves": {}}


@given(st.integers(0, 999), st.data())
def test_every_wording_of_a_topic_finds_the_same_page(number: int, data: st.DataObject):
    session = Session(town_name(number))
    page = data.draw(st.sampled_from(session.town.pages))
    words = data.draw(st.permutations([*page.topic.split(), "the", "rules", "of"]))
    assert ask(session, "handbook.search", query=" ".join(words)) == {"page_id": page.page_id}
    assert session.call("handbook.search", {"query": page.topic.split()[0]}) == ('{"error": "no page found"}', True)


@pytest.mark.parametrize(
    ("tool", "arguments", "error"),
    [
        ("orders.find", {}, "unknown tool"),
        ("orders.find_customer", {}, "missing argument name"),
        ("orders.find_customer", {"name": "Nobody"}, "no such customer"),
        ("orders.find_customer", {"name": "Nobody", "age": 3}, "unknown argument age"),
        ("orders.find_customer", {"name": 3}, "name must be of type string"),
        ("accounts.convert", {"amount": True, "base": "EUR", "target": "USD"}, "amount must be of type integer"),
        ("accounts.convert", {"amount": -1, "base": "EUR", "target": "USD"}, "no such amount"),
        ("accounts.rate", {"base": "EUR", "target": "EUR"}, "same currency"),
        ("calendar.room_key", {"room": "B12"}, "no such room"),
    ],
)
def test_a_bad_call_is_refused_in_words_and_changes_nothing(tool: str, arguments: dict, error: str):
    session = Session("town-001")
    assert session.call(tool, arguments) == (json.dumps({"error": error}), True)
    assert session.changes.plain() == UNCHANGED


@given(st.integers(0, 999), st.lists(st.tuples(st.sampled_from(sorted(TOOLS)), st.dictionaries(st.text(max_size=8), st.text(max_size=8)))))
def test_no_call_breaks_a_session(number: int, calls: list):
    first, second = Session(town_name(number)), Session(town_name(number))
    for name, arguments in calls:
        answer = first.call(name, arguments)
        assert answer == second.call(name, arguments)
        json.loads(answer[0])


def test_an_id_of_another_kind_finds_nothing():
    session = Session("town-001")
    resident = session.town.residents[0]
    assert session.call("orders.list_orders", {"customer_id": resident.person_id})[1]
    assert session.call("accounts.balance", {"account_id": resident.customer_id})[1]


def test_the_goal_needs_the_state_and_the_answer():
    session = Session("town-001")
    order = next(iter(session.town.orders))
    goal = Goal(state={"refunds": {order: session.town.drawn(values.REFUNDS, "refund", order)}}, answer=("12", "R11"))
    assert not session.check(goal, "12 and R11").success
    session.call("orders.create_refund", {"order_id": order})
    assert session.check(goal, "It is 12, with R11.").success
    lacking = session.check(goal, "It is 120, with R11.")
    assert (lacking.success, lacking.state, lacking.answer) == (False, True, False)
    assert lacking.detail == "the answer lacks 12"
    assert not session.check(goal, None).success
    assert not session.check(goal, "12 R11 " + "x" * ANSWER_LIMIT).success


@pytest.mark.parametrize(
    ("answer", "value", "named"),
    [
        ("the rate is 3.7.", "3.7", True),
        ("13.7", "3.7", False),
        ("3.71", "3.7", False),
        ("key T11", "T1", False),
        ("3.7", "3", False),
        ("at 3.", "3", True),
    ],
)
def test_a_value_is_named_as_a_word_of_its_own(answer: str, value: str, named: bool):
    assert names(answer, value) is named
