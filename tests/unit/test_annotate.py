"""What tools are like by their words and schemas; nothing that was given is changed."""

from pathlib import Path

import pytest

from cacherl import annotate
from cacherl.annotate import EITHER, READS, WRITES, infer, inferred_from_spec
from cacherl.importers.tools import tool_specs
from cacherl.tool_spec import Annotations, Function, Scope, ToolSpec
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Role, Trajectory


def tool(name: str, description: str = "", properties: dict | None = None, **annotations: object) -> ToolSpec:
    parameters = {"type": "object", "properties": properties or {}}
    return ToolSpec(function=Function(name=name, description=description, parameters=parameters), annotations=Annotations(**annotations))


WORDS = [
    ("orders.list_orders", "", False),
    ("get_user", "", False),
    ("getUserDetails", "", False),
    ("searchFlights", "", False),
    ("billing.search.find_invoice", "", False),
    ("account_status", "", False),
    ("weekly_visits_count", "", False),
    ("user_get_login_status", "", False),
    ("cancel_order", "", True),
    ("bulk_update_list", "", True),
    ("account_status_update", "", True),
    ("get_or_create_user", "", True),
    ("find_and_delete_files", "", True),
    ("check_in_guest", "", True),
    ("find_and_book_room", "", True),
    ("book_room", "", True),
    ("order_status", "Get the status of an order.", False),
    ("order_items", "Order more items.", True),
    ("order_items", "", True),
    ("balance", "Returns the balance.", False),
    ("balance", "This tool retrieves the balance.", False),
    ("frobnicate", "A read-only look at the frob.", False),
    ("frobnicate", "", None),
    ("frobnicate", "Applies a discount.", True),
    ("return_items", "Return items of an order.", True),
    ("resolve_ticket", "", None),
    ("x", "", None),
]


@pytest.mark.parametrize(("name", "description", "mutating"), WORDS)
def test_the_first_verb_speaks_and_silence_is_unknown(name, description, mutating):
    found = inferred_from_spec(tool(name, description))
    assert found.mutating is mutating
    if mutating is None:
        assert found.inferred == {}
    else:
        assert found.inferred["mutating"]["strength"] == "weak"


NOUNS = ["user", "order", "flight", "file", "ticket", "invoice", "message", "calendar", "account", "report"]


def test_the_nouns_of_tools_do_not_matter():
    for verb in sorted(READS | WRITES):
        for noun in NOUNS:
            assert inferred_from_spec(tool(f"{verb}_{noun}")).mutating is (verb in WRITES), f"{verb}_{noun}"
            assert inferred_from_spec(tool(f"{noun}s.{verb}{noun.title()}")).mutating is (verb in WRITES)


def test_the_lists_hold_single_english_verbs_that_do_not_overlap():
    assert not READS & WRITES
    assert not (READS | WRITES) & EITHER
    assert all(verb.isalpha() and verb.islower() for verb in READS | WRITES | EITHER)
    source = Path(annotate.__file__).read_text()
    for name in ("reservation", "tweet", "certificate", "watchlist", "airport", "customer_relationship", "workbench", "tau_bench", "bfcl"):
        assert name not in source.lower(), "no benchmark's tools are known here"


def test_what_is_given_is_never_changed():
    specs = [tool("get_user", mutating=True, identifier=["/arguments/x"]), tool("delete_user")]
    one = Trajectory(id="t", messages=[Message(role=Role.USER, content="x")], tools=specs, scenario="s", task_id="k")
    found = infer([one], {"delete_user": Annotations(mutating=False, scope=Scope.NONE), "unseen": Annotations(ttl_s=5)})
    assert (found["get_user"].mutating, found["get_user"].identifier, found["get_user"].inferred) == (True, ["/arguments/x"], {})
    assert (found["delete_user"].mutating, found["delete_user"].scope, found["delete_user"].inferred) == (False, Scope.NONE, {})
    assert found["unseen"] == Annotations(ttl_s=5)


def test_a_fact_that_is_given_leaves_the_others_to_inference():
    one = Trajectory(id="t", messages=[Message(role=Role.USER, content="x")], tools=[tool("list_users")], scenario="s", task_id="k")
    found = infer([one], {"list_users": Annotations(stochastic=True)})["list_users"]
    assert (found.mutating, found.stochastic) == (False, True)
    assert found.inferred == {"mutating": {"from": "name", "verb": "list", "strength": "weak"}}


def test_tools_that_were_called_without_a_schema_are_known_by_name():
    call = MessageToolCall(id="c", function=CalledFunction(name="find_user", arguments={}))
    made = Message(role=Role.ASSISTANT, tool_calls=[call])
    found = infer([Trajectory(id="t", messages=[made], scenario="s", task_id="k")], {})
    assert found["find_user"].mutating is False


def test_mcp_hints_come_before_words():
    raw = [
        {"name": "delete_all", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
        {"name": "get_all", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": False, "idempotentHint": True}},
        {"name": "get_more", "inputSchema": {"type": "object"}, "annotations": {"title": "x", "openWorldHint": True}},
        {"name": "get_rid", "inputSchema": {"type": "object"}, "annotations": {"destructiveHint": True}},
        {"name": "get_set", "inputSchema": {"type": "object"}, "annotations": {"idempotentHint": True}},
    ]
    found = [inferred_from_spec(spec) for spec in tool_specs(raw, [])]
    assert [one.mutating for one in found] == [False, True, False, True, False]
    assert [one.idempotent for one in found] == [None, True, None, None, True]
    assert [one.inferred["mutating"]["from"] for one in found] == ["mcp", "mcp", "name", "mcp", "name"]


def test_identifier_arguments_by_the_schema():
    text, leg = {"type": "string"}, {"type": "object", "properties": {"flight_number": {"type": "string"}, "note": {"type": "string"}}}
    properties = {
        "order_id": text, "userId": text, "email": text, "amount": {"type": "number"}, "pages": {"type": "integer"}, "query": text,
        "cabin": {"type": "string", "enum": ["a", "b"]}, "when": {"type": "string", "format": "date-time"}, "paid": {"type": "boolean"},
        "valid": text, "ids": {"type": "array", "items": text}, "legs": {"type": "array", "items": leg},
        "a/b": {"type": "object", "properties": {"code": text}},
    }  # fmt: skip
    names = ["order_id", "userId", "email", "amount", "pages", "cabin", "when", "ids", "legs/flight_number", "a~1b/code"]
    found = inferred_from_spec(tool("t", "", properties))
    assert found.identifier == sorted(f"/arguments/{name}" for name in names)
    evidence = found.inferred["identifier"]
    assert evidence["strength"] == "weak"
    assert evidence["arguments"]["/arguments/cabin"] == "enum"
    assert evidence["arguments"]["/arguments/when"] == "format date-time"
