"""The canonical form of a call and its key: two spellings of one call are equal, two calls never are."""

import json
import math
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cacherl.errors import DataError
from cacherl.tool_call import KEY_VERSION, MAX_DEPTH, ToolCall, canonical, canonical_arguments, dump_canonical, exact_key
from cacherl.tool_spec import Annotations, Function, ToolSpec

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(lambda text: unicodedata.normalize("NFC", text))
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)
objects = st.dictionaries(keys, documents, max_size=5)


def spec(properties: dict, **annotations: object) -> ToolSpec:
    parameters = {"type": "object", "properties": properties}
    return ToolSpec(function=Function(name="t", parameters=parameters), annotations=Annotations(**annotations))


GOLDEN = [
    ("t", {}, "b65983fd9410e500c80ce67676c7a27af92cb9ce370bac2d0066bab77130d795"),
    ("orders.get", {"id": "A37"}, "b5ad0947ac64ed88ccd3ce44ab33cb2641c218c411dbcfabd591661879966942"),
    ("orders.get", {"b": [1, 2.5, {"c": None}], "a": True}, "cc2f4c9ecfeb84de23c7d5cd04f89dfb49dc64f59926099e2f6695e473597ab6"),
    ("t", {"é": " café ", "n": 1.0, "z": -0.0}, "8ed3215338c68eedfd4be4c9bf2ea17ffd00ed06887cd73026ee474f719da7d8"),
    ("t", {"big": 2**70, "huge": 1e22}, "9381ea024f2dc8735551cc2cbeecccb2dcb0c104c15636c4c9075d2710624a54"),
]


@pytest.mark.parametrize(("name", "arguments", "key"), GOLDEN)
def test_golden_keys(name, arguments, key):
    assert KEY_VERSION == 1, "whoever changes the canonical form changes the version, and then these"
    assert exact_key(name, arguments).hex() == key


def shuffled(value, draw):
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


def respelt(value):
    """The same value in another spelling."""
    if isinstance(value, str):
        return f" \t{unicodedata.normalize('NFD', value)}\n"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value) if value else -0.0
    if isinstance(value, dict):
        return {unicodedata.normalize("NFD", key): respelt(inner) for key, inner in value.items()}
    return [respelt(item) for item in value] if isinstance(value, list) else value


@given(documents)
def test_canonical_is_idempotent_and_json(value):
    once = canonical(value)
    assert canonical(once) == once
    assert dump_canonical(canonical(once)) == dump_canonical(once)
    assert canonical(json.loads(dump_canonical(once))) == once


@given(objects, st.data())
def test_the_order_of_keys_and_the_spelling_of_values_do_not_matter(arguments, data):
    key = exact_key("t", arguments)
    assert exact_key("t", shuffled(arguments, data.draw)) == key
    assert exact_key("t", respelt(arguments)) == key


@given(objects)
def test_a_schema_that_says_nothing_changes_nothing(arguments):
    assert exact_key("t", arguments, spec({})) == exact_key("t", arguments)
    assert exact_key("u", arguments) != exact_key("t", arguments)


@given(documents, documents)
def test_different_canonical_values_have_different_bytes(a, b):
    same = dump_canonical(canonical(a)) == dump_canonical(canonical(b))
    assert same == (json.dumps(canonical(a), sort_keys=True) == json.dumps(canonical(b), sort_keys=True))


DISTINCT = [
    [{"a": [1, 2]}, {"a": [2, 1]}],
    [{"a": "Oslo"}, {"a": "oslo"}],
    [{"a": None}, {}],
    [{"a": True}, {"a": 1}, {"a": "1"}, {"a": "true"}],
    [{"a": False}, {"a": 0}, {"a": ""}, {"a": []}, {"a": {}}, {"a": None}],
    [{"a": "a b"}, {"a": "a  b"}],
    [{"a": 1.1}, {"a": 1.10000001}],
    [{"a": 2**70}, {"a": 2**70 + 1}],
    [{"a": "ﬁ"}, {"a": "fi"}],
    [{" a": 1}, {"a": 1}],
    [{"a": {"b": 1}}, {"a.b": 1}, {"a": [{"b": 1}]}],
]


@pytest.mark.parametrize("calls", DISTINCT)
def test_what_must_stay_distinct(calls):
    assert len({exact_key("t", call) for call in calls}) == len(calls)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, b"x", {1, 2}, object(), {1: "a"}, "\ud800", {"\udfff": 1}])
def test_what_is_no_json_is_refused_where_it_stands(value):
    with pytest.raises(DataError) as refusal:
        canonical({"a/b": [0, value]})
    assert refusal.value.pointer == "/a~1b/1"


def test_two_keys_that_are_one_are_refused():
    with pytest.raises(DataError, match="two keys"):
        canonical({"\u00e9": 1, "e\u0301": 2})


def test_depth_is_bounded_with_and_without_a_schema():
    def nested(depth: int) -> dict:
        value: dict = {}
        for _ in range(depth):
            value = {"a": value}
        return value

    assert canonical(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    recursive = ToolSpec(function=Function(name="t", parameters={"type": "object", "properties": {"a": {"$ref": "#"}}}))
    for tool in (None, spec({}), recursive):
        for depth in (MAX_DEPTH + 1, 20_000):
            with pytest.raises(DataError, match="deeper"):
                exact_key("t", nested(depth), tool)


def test_a_call_with_numbers_that_are_not_finite_is_refused_however_it_comes():
    with pytest.raises(ValidationError):
        ToolCall(name="t", arguments={"a": math.nan})
    for text in ('{"a": NaN}', '{"a": [{"b": -Infinity}]}'):
        with pytest.raises(ValidationError):
            ToolCall.model_validate_json(f'{{"name": "t", "arguments": {text}}}')


def test_the_callers_arguments_are_left_as_they_are():
    arguments = {"a": {"n": 1.0}, "v": 1, "doc": '{"x": 1}'}
    before = json.dumps(arguments)
    canonical_arguments(arguments, spec({"doc": {"type": "object"}, "d": {"default": []}}, volatile=["/arguments/v", "/arguments/a/n"]))
    assert json.dumps(arguments) == before


DOCUMENT = spec(
    {"doc": {"type": "object", "properties": {"n": {"type": "integer"}, "m": {"default": 2}}}, "list": {"type": ["array", "null"]}}
)


def test_a_document_given_as_a_string_is_parsed_where_the_schema_wants_one():
    assert canonical_arguments({"doc": '{"n": 1}'}, DOCUMENT) == {"doc": {"n": 1, "m": 2}}
    assert canonical_arguments({"list": "[1, 2.0]"}, DOCUMENT) == {"list": [1, 2]}
    for text in ("5", "[1]", '"x"', "null", "{", "NaN", ""):
        assert canonical_arguments({"doc": text}, DOCUMENT) == {"doc": text.strip()}
    assert exact_key("t", {"doc": "5"}, DOCUMENT) != exact_key("t", {"doc": 5}, DOCUMENT)
    either = spec({"doc": {"type": ["string", "object"]}})
    assert canonical_arguments({"doc": '{"n": 1}'}, either) == {"doc": '{"n": 1}'}


def test_a_long_integer_in_an_embedded_document_keeps_every_digit():
    one, other = (f'{{"n": {10**30 + n}}}' for n in (1, 2))
    assert exact_key("t", {"doc": one}, DOCUMENT) != exact_key("t", {"doc": other}, DOCUMENT)
    assert exact_key("t", {"doc": one}, DOCUMENT) == exact_key("t", {"doc": {"n": 10**30 + 1}}, DOCUMENT)


def test_defaults_are_filled_in_at_every_level():
    tool = spec(
        {
            "a": {"default": 1},
            "o": {"default": {}, "properties": {"b": {"default": [1.0]}}},
            "i": {"items": {"properties": {"c": {"default": "x"}}}},
        }
    )
    assert canonical_arguments({}, tool) == canonical_arguments({"a": 1, "o": {"b": [1]}}, tool) == {"a": 1, "o": {"b": [1]}}
    assert canonical_arguments({"i": [{}, {"c": "y"}]}, tool)["i"] == [{"c": "x"}, {"c": "y"}]
    assert exact_key("t", {"a": None}, tool) != exact_key("t", {}, tool)


def test_local_references_and_optional_types_are_followed():
    parameters = {
        "properties": {"at": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]}, "loop": {"$ref": "#/properties/loop"}},
        "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}, "zoom": {"default": 3}}}},
    }
    tool = ToolSpec(function=Function(name="t", parameters=parameters))
    want = {"at": {"city": "Oslo", "zoom": 3}, "loop": {"x": 1}}
    assert canonical_arguments({"at": {"city": "Oslo"}, "loop": {"x": 1}}, tool) == want
    assert canonical_arguments({"at": '{"city": "Oslo"}', "loop": {"x": 1}}, tool) == want
    assert canonical_arguments({"at": None}, tool) == {"at": None}


def test_volatile_arguments_are_left_out_wherever_they_stand():
    tool = spec(
        {}, volatile=["/arguments/request_id", "/arguments/items/nonce", "/arguments/a~1b", "/arguments/o/at", "/result/id", "/arguments"]
    )
    full = {"request_id": 1, "items": [{"nonce": 2, "k": 1}, {"k": 2}], "a/b": 3, "o": {"at": 4, "x": 5}, "id": 6}
    assert canonical_arguments(full, tool) == {"items": [{"k": 1}, {"k": 2}], "o": {"x": 5}, "id": 6}
    assert canonical_arguments({"items": 3, "o": [1]}, tool) == {"items": 3, "o": [1]}


def test_integers_beyond_64_bits_keep_every_digit():
    assert dump_canonical(canonical({"n": 2**70})) == b'{"n":%d}' % 2**70
    assert orjson.loads(dump_canonical([1, "a"])) == [1, "a"]
