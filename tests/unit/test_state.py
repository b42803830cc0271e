"""What moves the state of an episode and what a tool's key sees of it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.errors import ConflictError, InputError
from cacherl.identifiers import identifiers, looks_like_identifier, mentioned
from cacherl.state import MAX_IDENTIFIERS, State, advance, scoped
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall
from cacherl.tool_spec import Annotations, Function, Scope, ToolSpec

OK = ToolResult(content="done")
HIT = CallOutcome.EXACT


def spec(name: str, **annotations: object) -> ToolSpec:
    return ToolSpec(function=Function(name=name), annotations=Annotations(**annotations))


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


READ = spec("orders.find", mutating=False)
READ_BY_ID = spec("orders.get", mutating=False, scope=Scope.IDENTIFIER)
WRITE = spec("orders.set", mutating=True)
OTHER_READ = spec("mail.find", mutating=False)
ALL_READ = spec("desk.overview", mutating=False, scope=Scope.ALL)
START = State.start("viw_1")

writes = st.builds(
    lambda group, number: call(f"{group}.set", id=f"A{number}"), st.sampled_from(["orders", "mail", "desk", ""]), st.integers(10, 9999)
)
histories = st.lists(
    st.tuples(writes, st.sampled_from(list(CallOutcome)), st.sampled_from([OK, ToolResult(content="no such order", is_error=True)])),
    max_size=12,
)


def played(history: list[tuple[ToolCall, CallOutcome, ToolResult]]) -> State:
    state = START
    for made, outcome, result in history:
        state = advance(state, made, None, outcome, result)
    return state


def after(*calls: ToolCall, start: State = START) -> State:
    for made in calls:
        start = advance(start, made, None, HIT, OK)
    return start


@given(histories, st.sampled_from(list(CallOutcome)), st.booleans())
def test_a_read_never_moves_the_state(history, outcome, failed):
    state = played(history)
    assert advance(state, call("orders.find", q="x"), READ, outcome, ToolResult(content="timed out", is_error=failed)) == state


@given(histories, writes)
def test_a_write_changes_its_own_groups_reads_and_no_others(history, write):
    before = played(history)
    state = advance(before, write, None, HIT, OK)
    for group in ("orders", "mail", "desk"):
        reading, tool = call(f"{group}.find", q="x"), spec(f"{group}.find", mutating=False)
        if write.name == f"{group}.set":
            assert scoped(state, reading, tool) != scoped(before, reading, tool) or group in before.unknown
        else:
            assert scoped(state, reading, tool) == scoped(before, reading, tool)


@given(histories, writes, st.sampled_from([CallOutcome.EXACT, CallOutcome.MALFORMED, CallOutcome.UNKNOWN_TOOL]))
def test_a_failed_write_leaves_the_state(history, write, outcome):
    before = played(history)
    assert advance(before, write, None, outcome, ToolResult(content="order not found", is_error=True)) == before


@given(histories, writes, st.sampled_from([(CallOutcome.MISS, False), (CallOutcome.MISS, True), (HIT, True)]))
def test_a_write_that_may_have_happened_makes_its_group_unknown_for_good(history, write, how):
    outcome, failed = how
    state = advance(played(history), write, None, outcome, ToolResult(content="503 Service Unavailable", is_error=failed))
    group = write.name.rpartition(".")[0]
    own, elsewhere = (f"{group}.get" if group else "get"), "calendar.get"
    for scope in (None, Scope.IDENTIFIER, Scope.GROUP, Scope.ALL):
        assert scoped(state, call(own, id="Z99"), spec(own, mutating=False, scope=scope)) is None
    assert scoped(after(write, start=state), call(own), None) is None
    assert scoped(state, call(elsewhere), None) is not None
    assert scoped(state, call(own), spec(own, scope=Scope.NONE)) is not None
    assert scoped(state, call(own), spec(own, reads_state=False)) is not None


@given(histories)
def test_tokens_round_trip_and_equal_states_have_equal_tokens(history):
    state = played(history)
    assert State.parse(state.token, "viw_1") == state
    assert State.parse(state.token, "viw_1").token == state.token == played(history).token


@given(writes, writes)
def test_order_and_number_count_inside_a_scope(first, second):
    one, other, twice = after(first, second), after(second, first), after(first, second, second)
    overview = call("desk.overview")
    assert (scoped(one, overview, ALL_READ) == scoped(other, overview, ALL_READ)) == (first == second)
    assert scoped(one, overview, ALL_READ) != scoped(twice, overview, ALL_READ)


def test_a_tool_without_a_spec_or_without_knowledge_counts_as_mutating():
    for tool in (None, spec("orders.set"), WRITE):
        assert len(advance(START, call("orders.set", id="A10"), tool, HIT, OK).mutations) == 1


def test_spelling_of_a_call_does_not_matter_and_volatile_arguments_neither():
    tool = spec("orders.set", volatile=["/arguments/nonce"])
    one = advance(START, call("orders.set", id=" A10", n=1.0, nonce="x1x"), tool, HIT, OK)
    assert one == advance(START, call("orders.set", n=1, nonce="y2y", id="A10"), tool, HIT, OK)


def test_identifier_scope_sees_what_shares_an_identifier_with_its_arguments():
    a, b = call("orders.set", id="A10", to="gone"), call("orders.set", id="A11", to="gone")
    read_a, read_b, read_none = call("orders.get", id="a10"), call("orders.get", id="A11"), call("orders.get", q="lamp")
    start = scoped(START, read_a, READ_BY_ID)
    assert scoped(after(b), read_a, READ_BY_ID) == start
    assert scoped(after(a), read_a, READ_BY_ID) != start
    assert scoped(after(a, b), read_a, READ_BY_ID) == scoped(after(b, a), read_a, READ_BY_ID) == scoped(after(a), read_a, READ_BY_ID)
    assert scoped(after(a, b), read_b, READ_BY_ID) == scoped(after(b), read_b, READ_BY_ID)
    assert scoped(after(b), read_none, READ_BY_ID) == scoped(after(b), read_none, READ), "no identifier: the whole group"


def test_an_identifier_that_only_the_result_names_counts():
    made = call("orders.create", what="lamp")
    state = advance(START, made, None, HIT, ToolResult(content='{"order": {"id": "A77", "what": "lamp"}}'))
    said = advance(START, made, None, HIT, ToolResult(content="Created order A77. Thank you."))
    for moved in (state, said):
        assert scoped(moved, call("orders.get", id="A77"), READ_BY_ID) != scoped(START, call("orders.get", id="A77"), READ_BY_ID)
        assert scoped(moved, call("orders.get", id="A78"), READ_BY_ID) == scoped(START, call("orders.get", id="A78"), READ_BY_ID)


def test_annotated_identifiers_count_whatever_their_look():
    read = spec("people.get", mutating=False, scope=Scope.IDENTIFIER, identifier=["/arguments/who/name", "/tags"])
    write = spec("people.set", mutating=True, identifier=["/arguments/names"])
    moved = advance(START, call("people.set", names=["Ann", "Bo"]), write, HIT, OK)
    for arguments, touched in (({"who": {"name": "Ann"}}, True), ({"who": [{"name": "bo"}]}, True), ({"tags": ["Cy"]}, False)):
        reading = ToolCall(name="people.get", arguments=arguments)
        assert (scoped(moved, reading, read) != scoped(START, reading, read)) is touched


def test_a_write_that_mentions_very_much_touches_every_identifier_of_its_group():
    result = ToolResult(content=[f"X{n}" for n in range(10, 11 + MAX_IDENTIFIERS)])
    moved = advance(START, call("orders.import"), None, HIT, result)
    assert moved.mutations[0].identifiers is None
    assert scoped(moved, call("orders.get", id="A10"), READ_BY_ID) != scoped(START, call("orders.get", id="A10"), READ_BY_ID)
    assert State.parse(moved.token, "viw_1") == moved


def test_the_annotated_resource_group_wins_over_the_namespace():
    moved = advance(START, call("set_lamp", on=True), spec("set_lamp", resource_group="house"), HIT, OK)
    reading = spec("house_report", mutating=False, resource_group="house")
    assert scoped(moved, call("house_report"), reading) != scoped(START, call("house_report"), reading)
    assert scoped(moved, call("other"), None) == scoped(START, call("other"), None)


def test_an_idempotent_call_that_is_repeated_at_once_moves_nothing_more():
    tool = spec("orders.set", mutating=True, idempotent=True)

    def played_with(*calls: ToolCall) -> State:
        state = START
        for made in calls:
            state = advance(state, made, tool if made.name == "orders.set" else None, HIT, OK)
        return state

    one, other = call("orders.set", id="A10"), call("orders.set", id="A11")
    assert played_with(one, one, one) == played_with(one)
    assert len(played_with(one, other, one).mutations) == 3
    assert len(played_with(one, call("mail.send", to="x"), one).mutations) == 3
    assert len(after(one, one).mutations) == 2, "of a tool that nobody calls idempotent every call counts"


def test_golden_token():
    state = advance(after(call("orders.set", id="A10")), call("mail.send", to="x"), None, CallOutcome.MISS, OK)
    assert state.token == "AQAFdml3XzEAAgAEbWFpbAAGb3JkZXJzAAEAAAABAAE5SVtusVT1KwHpY1NXCPzn-A"
    assert scoped(state, call("orders.find", q="x"), READ).hex() == "34f4a7e22b9d017aab238da19b5757c8"


def test_a_mutation_costs_a_few_bytes():
    short, long = after(call("orders.set", id="A10")), after(*[call("orders.set", id=f"A{n}") for n in range(10, 110)])
    assert (len(long.token) - len(short.token)) / 99 <= 22


def test_tokens_of_another_view_and_rubbish():
    with pytest.raises(ConflictError) as conflict:
        State.parse(START.token, "viw_2")
    assert conflict.value.problem_slug == "state-of-another-view"
    assert State.parse(None, "viw_2") == State.start("viw_2")
    token = after(call("orders.set", id="A10")).token
    for rubbish in ("", "x", "é", "{}", "null", token[:-1], token + "A", token + "!", "A" + token, token[:9] + "zz" + token[11:]):
        with pytest.raises(InputError):
            State.parse(rubbish, "viw_1")


@given(st.text(max_size=60))
def test_no_text_crashes_the_parser(text):
    with pytest.raises((InputError, ConflictError)):
        State.parse(text, "viw_1")


LOOKS = {
    True: [
        "A37",
        "#W1234567",
        "ord_7f3",
        "00000013",
        123456,
        "ann.b@example.org",
        "6fa459ea-ee8a-3ca4-894e-db77e160355e",
        "555-01023",
        "HAT123",
    ],
    False: [
        "",
        "lamp",
        "a b 12",
        "12",
        12,
        3.75,
        True,
        None,
        "2024-05-01",
        "2024-05-01T10:00:00Z",
        "10:30",
        "9am",
        "1234.56",
        "New York",
        "05/06/2024",
    ],
}


@pytest.mark.parametrize(("value", "expected"), [(value, expected) for expected, values in LOOKS.items() for value in values])
def test_the_look_of_an_identifier(value, expected):
    assert looks_like_identifier(value) is expected


def test_a_read_is_narrowed_by_whole_values_a_write_widened_by_words():
    text = {"q": "where is A37, please?"}
    assert identifiers(text) == frozenset()
    assert mentioned(text) == {"a37"}
    assert mentioned({"A38": {"n": 1}, "doc": '[{"id": 4711.0}, "x@y.org"]'}) == {"a38", "4711", "x@y.org"}
    assert identifiers({"id": 4711}) == {"4711"} == identifiers({"id": "4711"})


def test_speed_thousands_a_second():
    state, began = START, time.perf_counter()
    for n in range(2000):
        state = advance(state if n % 20 else START, call("orders.set", id=f"A{n}", to="gone"), WRITE, HIT, OK)
        assert scoped(state, call("orders.get", id=f"A{n}"), READ_BY_ID)
        State.parse(state.token, "viw_1")
    assert 2000 / (time.perf_counter() - began) > 1000
