"""Texts that never change a tool's result: learned from the recordings, left out of the key, kept in the state."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.result_digest import result_digest
from cacherl.state import State, advance
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall, canonical_arguments
from cacherl.tool_spec import Annotations, Function, ToolSpec
from services.cache_api.learning.immaterial import UNPROVEN, Texts, enough, judged, with_immaterial
from services.cache_api.lookup_key import lookup_key
from tests.cache_api.conftest import Cache, call, item, tool, trajectory
from tests.cache_api.test_views import finished

WORDS = sorted({"garden", "gate", "open", "when", "came", "back", "market", "nobody", "dog", "noon", "river", "early", "window", "quiet"})
NOTE = {"type": "object", "properties": {"text": {"type": "string"}, "to": {"type": "string"}}, "required": ["text"]}


def sentence(number: int) -> str:
    return " ".join(random.Random(number).sample(WORDS, 6))


def spec(name: str, **annotations: Any) -> ToolSpec:
    return ToolSpec(function=Function(name=name, parameters=NOTE), annotations=Annotations(**annotations))


def recorded(calls: list[tuple[str, dict[str, Any], str, str]]) -> Texts:
    """Texts of calls `(tool, arguments, result, task)`."""
    texts = Texts()
    for name, arguments, result, task in calls:
        told = {"scenario": "s", "source": task, "task": task, "result": result_digest(result, False, None)}
        texts.add(name, canonical_arguments(arguments), spec(name), **told)
    return texts


def immaterial(texts: Texts, *names: str) -> dict[str, list[str]]:
    return {name: one.annotations.immaterial for name, one in with_immaterial({name: spec(name) for name in names}, texts).items()}


def test_a_text_that_never_matters_is_found_and_one_that_does_is_not():
    noted = [("note.keep", {"text": sentence(n)}, "noted", f"t{n}") for n in range(50)]
    found = [("note.find", {"text": sentence(n)}, f"page {n % 9}", f"t{n}") for n in range(50)]
    sent = [("note.send", {"text": sentence(n), "to": f"u{n % 3}@example.org"}, f"sent by {n % 3}", f"t{n}") for n in range(50)]
    texts = recorded(noted + found + sent)
    assert immaterial(texts, "note.keep", "note.find", "note.send") == {
        "note.keep": ["/arguments/text"],
        "note.find": [],
        "note.send": ["/arguments/text"],
    }
    proof = with_immaterial({"note.keep": spec("note.keep")}, texts)["note.keep"].annotations.inferred["immaterial"]
    assert isinstance(proof, dict)
    assert proof["arguments"] == {
        "/arguments/text": {"comparisons": 49, "tasks": 50, "conflicts": 0, "upper": pytest.approx(0.0582, abs=1e-4)}
    }
    assert "immaterial" not in with_immaterial({"note.keep": spec("note.keep")}, texts, {"note.keep"})["note.keep"].annotations.inferred
    told = spec("note.keep", immaterial=["/arguments/to"])
    assert with_immaterial({"note.keep": told}, texts)["note.keep"] == told, "what the tool itself says stays"


@given(st.integers(0, 59), st.integers(20, 60))
def test_one_result_that_differs_is_enough_against_it(odd: int, calls: int):
    told = [("note.keep", {"text": sentence(n)}, "noted", f"t{n}") for n in range(calls)]
    assert immaterial(recorded(told), "note.keep") == {"note.keep": ["/arguments/text"]}
    told[odd % calls] = ("note.keep", {"text": sentence(odd % calls)}, "the notebook is full", "t")
    assert immaterial(recorded(told), "note.keep") == {"note.keep": []}


def test_many_calls_of_few_tasks_are_few():
    told = [("note.keep", {"text": sentence(n)}, "noted", f"t{n % 4}") for n in range(200)]
    assert immaterial(recorded(told), "note.keep") == {"note.keep": []}


def test_what_other_tasks_contradict_takes_more_than_it_did():
    """A dozen tools of which any ten tasks say one thing and the eleventh another: few tasks are no evidence here."""

    def dozen(odd: str) -> Texts:
        return recorded(
            [
                (f"t{number}.ask", {"text": sentence(n)}, odd if n == number else "yes", f"{number}-{n}")
                for number in range(12)
                for n in range(13)
            ]
        )

    assert enough(dozen("yes").tables())[::2] == (8, 0)
    tables = dozen("no").tables()
    assert enough(tables) == (UNPROVEN, 0, 0)
    assert not any(judged(tables).immaterial(f"t{number}.ask") for number in range(12))


def test_evidence_is_strong_only_where_enough_calls_were_replayed():
    """A hundred calls replayed without an error are no proof of half a per cent, and are not called one."""

    def proof(tasks: int) -> Any:
        texts = recorded([("note.keep", {"text": sentence(n)}, "noted", f"t{n}") for n in range(tasks)])
        return with_immaterial({"note.keep": spec("note.keep")}, texts)["note.keep"].annotations.inferred["immaterial"]

    assert (proof(100)["strength"], proof(100)["replayed"]) == ("weak", {"served": 100, "wrong": 0})
    assert (proof(190)["strength"], proof(250)["strength"]) == ("weak", "strong")


def test_texts_of_one_task_beside_one_text_of_many_are_few():
    told = [("note.keep", {"text": sentence(1)}, "noted", f"t{n}") for n in range(50)]
    told += [("note.keep", {"text": sentence(100 + n)}, "noted", "other") for n in range(60)]
    assert immaterial(recorded(told), "note.keep") == {"note.keep": []}


def test_texts_that_only_alone_are_uncontradicted_do_not_both_leave_the_key():
    """Each varies while the other stands, and nothing differs; where both differ, the result does."""
    told = [("mail", {"text": sentence(n), "to": "whoever " + sentence(500)}, "left", f"a{n}") for n in range(40)]
    told += [("mail", {"text": sentence(900), "to": "whoever " + sentence(600 + n)}, "right", f"b{n}") for n in range(40)]
    assert len(immaterial(recorded(told), "mail")["mail"]) == 1


@pytest.mark.parametrize("other", [{"to": "as it always was before"}, {}])
def test_a_text_that_never_varied_is_not_taken_along_by_one_that_did(other: dict[str, Any]):
    told = [("mail", {"text": sentence(n)} | other, "kept", f"t{n}") for n in range(50)]
    told += [("mail", {"text": sentence(n), "to": "once and never again said"}, "kept", f"t{n}") for n in range(0 if other else 1)]
    assert immaterial(recorded(told), "mail") == {"mail": ["/arguments/text"]}


def test_what_may_be_a_name_is_no_text_that_never_matters():
    """Only what existed was deleted in the recordings: that all of it succeeded says nothing of other titles."""
    names = [f"{first} {second}" for first in WORDS for second in ("lunch", "call", "party")]
    told = [("event.drop", {"title": name}, "Event deleted.", f"t{n}") for n, name in enumerate(names)]
    assert immaterial(recorded(told), "event.drop") == {"event.drop": []}
    told = [("event.drop", {"title": name, "text": sentence(n)}, "Event deleted.", f"t{n}") for n, name in enumerate(names)]
    assert immaterial(recorded(told), "event.drop") == {"event.drop": ["/arguments/text"]}


def test_of_two_texts_one_may_matter():
    told = [("mail", {"text": sentence(n % 5), "to": "whoever " + sentence(n)}, f"page {n % 5}", f"t{n}") for n in range(100)]
    assert immaterial(recorded(told), "mail") == {"mail": ["/arguments/to"]}


def test_the_key_leaves_a_text_out_and_the_state_does_not():
    known = spec("note.keep", immaterial=["/arguments/text"])
    one, other = said = [{"text": sentence(n), "to": "A17"} for n in (1, 2)]
    assert lookup_key("note.keep", one, known) == lookup_key("note.keep", other, known) != lookup_key("note.keep", one, spec("note.keep"))
    for changed in ({"to": "A17"}, {"text": "", "to": "A17"}, {"text": "B22", "to": "A17"}, {"text": sentence(1), "to": "A18"}):
        assert lookup_key("note.keep", changed, known) != lookup_key("note.keep", one, known)
    calls = [ToolCall.model_validate({"name": "note.keep", "arguments": one}) for one in said]
    after = {advance(State.start("v"), one, known, CallOutcome.EXACT, ToolResult(content="noted")).token for one in calls}
    assert len(after) == 2


async def test_a_view_that_is_built_answers_texts_that_nobody_recorded(cache: Cache):
    tools = [tool("note.keep", {"text": {"type": "string"}}, mutating=True), tool("note.read", {}, mutating=False)]
    runs = [
        trajectory(f"r{n}", [("note.keep", {"text": sentence(n)}, "noted"), ("note.read", {}, sentence(n))], task=f"t{n}", tools=tools)
        for n in range(30)
    ]
    await cache.record(*runs)
    asked = item(call("note.keep", {"text": "nobody ever wrote this before"}), call("note.read", {}))
    old = await cache.look(asked)
    assert [one["outcome"] for one in old["items"][0]["results"]] == ["miss", "miss"]

    answer = await cache.http.post(f"{cache.url}/views", json={})
    await finished(cache, f"/views/{answer.json()['id']}")
    said = (await cache.get("/tools/note.keep"))["spec"]["annotations"]
    assert said["immaterial"] == ["/arguments/text"]
    assert said["inferred"]["immaterial"]["arguments"]["/arguments/text"]["tasks"] == 30
    kept, read = await cache.results(asked)
    assert (kept["outcome"], kept["result"]["content"]) == ("exact", "noted")
    assert read["outcome"] == "miss", "what was written is part of the state: no recording read it"
    known = await cache.results(item(call("note.keep", {"text": sentence(3)}), call("note.read", {})))
    assert [one["result"]["content"] for one in known] == ["noted", sentence(3)]
    pins = {name: old[name] for name in ("revision", "view", "as_of")}
    assert await cache.look(asked, **pins) == old

    refused = await cache.http.post(f"{cache.url}/views", json={"annotations": {"note.keep": {"immaterial": []}}})
    await finished(cache, f"/views/{refused.json()['id']}")
    assert (await cache.get("/tools/note.keep"))["spec"]["annotations"]["immaterial"] == []
    assert (await cache.results(asked))[0]["outcome"] == "miss"
