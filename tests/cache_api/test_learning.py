"""Scopes are learned from the recordings, with evidence, when a view is built; what was given stays."""

from typing import Any

import pytest

from cacherl.tool_spec import Annotations, Function, Scope, ToolSpec
from services.cache_api.event import Event, Track
from services.cache_api.learning import view_tools
from services.cache_api.learning.effects import annotated
from services.cache_api.learning.evidence import Compared, Evidence, evidence_of, upper_bound
from services.cache_api.learning.observe import of_tracks
from services.cache_api.learning.scopes import UNPROVEN, learned_scopes
from services.cache_api.learning.traces import traces_of
from tests.cache_api.conftest import Cache, tool, trajectory
from tests.cache_api.test_views import finished


def spec(name: str, **annotations: Any) -> ToolSpec:
    return ToolSpec(function=Function(name=name), annotations=Annotations(**annotations))


SPECS = {
    one.name: one
    for one in (
        spec("shop.set_price", mutating=True),
        spec("shop.paint", mutating=True),
        spec("mail.send", mutating=True),
        spec("shop.get_price", mutating=False),
        spec("shop.opening_hours", mutating=False),
        spec("shop.report", mutating=False),
    )
}


def shop(number: int, changes: list[tuple[str, dict[str, Any]]]) -> Track:
    """A run of a small world: prices by item, hours that nothing changes, a report of everything."""
    prices: dict[str, int] = {}
    events = []

    def take(name: str, arguments: dict[str, Any], content: Any) -> None:
        events.append(Event(name, arguments, content, False, step=len(events)))

    for name, arguments in changes:
        if name == "shop.set_price":
            prices[arguments["item"]] = arguments["price"]
        take(name, arguments, "done")
    take("shop.get_price", {"item": "A10"}, prices.get("A10", 1))
    take("shop.opening_hours", {"day": "monday"}, "9 to 5")
    take("shop.report", {}, sorted(prices.items()))
    return Track(f"r{number}", "s", f"t{number}", events)


def world(runs: int) -> list[Track]:
    found = []
    for n in range(runs):
        changes: list[tuple[str, dict[str, Any]]] = []
        if n % 2:
            changes.append(("shop.set_price", {"item": f"B{20 + n % 7}", "price": n % 5}))
        if n % 3 == 0:
            changes.append(("shop.set_price", {"item": "A10", "price": n % 4}))
        if n % 5 == 0:
            changes.append(("mail.send", {"to": f"x{n % 6}@y.org"}))
        found.append(shop(n, changes))
    return found


def test_each_tool_gets_the_finest_scope_that_the_recordings_bear():
    learned, choice = learned_scopes(of_tracks(world(200), SPECS))
    assert {name: found.scope for name, found in learned.items() if not SPECS[name].annotations.mutating} == {
        "shop.get_price": Scope.IDENTIFIER,
        "shop.opening_hours": Scope.NONE,
        "shop.report": Scope.GROUP,
    }
    hours = learned["shop.opening_hours"].model()
    assert hours["comparisons"] >= choice.required
    assert (hours["conflicts"], hours["strength"], hours["required"]) == (0, "strong", choice.required)
    assert hours["upper"] == pytest.approx(1 - 0.05 ** (1 / hours["comparisons"]), abs=1e-6)
    assert learned["shop.get_price"].evidence.scopes[Scope.NONE].conflicts > 0


def test_comparisons_are_between_pasts_that_differ_and_not_between_repetitions():
    same = [Track(f"r{n}", "s", "t", shop(1, [("shop.paint", {"colour": "red"})]).events) for n in range(50)]
    found = evidence_of(of_tracks(same, SPECS).table("shop.opening_hours"))
    assert found.scopes[Scope.NONE] == Compared(0, 0)
    assert found.noise.comparisons == 49
    more = [*same, shop(2, []), shop(3, [("shop.paint", {"colour": "blue"})]), shop(4, [("mail.send", {"to": "x"})])]
    found = evidence_of(of_tracks(more, SPECS).table("shop.opening_hours"))
    assert found.scopes[Scope.NONE] == Compared(2, 0)
    assert found.scopes[Scope.GROUP] == Compared(1, 0)


def test_too_little_evidence_leaves_the_group():
    learned, choice = learned_scopes(of_tracks(world(4), SPECS))
    assert (choice.proven, choice.required) == (False, UNPROVEN)
    assert {found.scope for found in learned.values()} <= {Scope.GROUP, Scope.ALL}
    assert learned["shop.opening_hours"].model()["strength"] == "weak"
    told, choice = learned_scopes(of_tracks(world(4), SPECS), required=1)
    assert (told["shop.opening_hours"].scope, choice.required) == (Scope.NONE, 1)


def test_a_finer_scope_needs_its_coarser_ones_to_hold_and_noise_is_no_conflict():
    def scope(none: Compared, identifier: Compared, group: Compared, noise: tuple[int, int] = (0, 0), required: int = 5) -> Scope:
        found = {Scope.NONE: none, Scope.IDENTIFIER: identifier, Scope.GROUP: group}
        return Evidence(found, Compared(*noise)).choose(required)

    clean, some, nothing = Compared(9, 0), Compared(9, 1), Compared(0, 0)
    assert scope(clean, nothing, nothing) is Scope.NONE
    assert scope(clean, some, nothing) is Scope.GROUP
    assert scope(some, clean, nothing) is Scope.IDENTIFIER
    assert scope(clean, clean, some) is Scope.ALL
    assert scope(clean, clean, nothing, required=10) is Scope.GROUP
    assert scope(some, nothing, nothing, noise=(10, 2)) is Scope.NONE
    assert scope(Compared(9, 3), nothing, nothing, noise=(10, 2)) is Scope.GROUP


def test_the_bound_of_nothing_is_one_and_three_over_n_without_conflict():
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(0, 300) == pytest.approx(3 / 300, rel=0.01)
    assert upper_bound(3, 3) == 1.0


def test_the_number_of_comparisons_keeps_what_replaying_the_recordings_shows():
    """Tools that look stateless until one rare change: with one comparison they would be wrong often."""
    specs = {f"t{n}.look": spec(f"t{n}.look", mutating=False) for n in range(40)} | {
        f"t{n}.set": spec(f"t{n}.set", mutating=True) for n in range(40)
    }
    tracks = []
    for n in range(40):
        for run in range(24):
            changed = run % 3 == 0
            matters = changed and (run * 7 + n) % 11 < 3
            events = [Event(f"t{n}.set", {"v": run}, "ok", False, step=0)] if changed else []
            events.append(Event(f"t{n}.look", {}, "new" if matters else "old", False, step=len(events)))
            tracks.append(Track(f"r{n}-{run}", "s", f"task{n}-{run}", events))
    _, choice = learned_scopes(of_tracks(tracks, specs))
    assert choice.required > 1
    for trials in choice.trials.values():
        kept = next(trial for trial in trials if trial.required == choice.required)
        assert kept.false_hits <= 0.005 * kept.hits


async def test_a_view_that_is_built_learns_and_shows_its_evidence(cache: Cache):
    tools = [
        tool("desk.look", {"q": {"type": "string"}}, mutating=False),
        tool("desk.fixed", {"q": {"type": "string"}}, mutating=False, scope="all"),
        tool("desk.put", {"v": {"type": "integer"}}, mutating=True),
        tool("desk.read", {}, mutating=False),
    ]
    runs = [
        trajectory(
            f"r{n}",
            [
                *([("desk.put", {"v": n}, "ok")] if n % 2 else []),
                ("desk.look", {"q": "x"}, "same"),
                ("desk.fixed", {"q": "x"}, "same"),
                ("desk.read", {}, str(n if n % 2 else 0)),
            ],
            task=f"t{n}",
            tools=tools,
        )
        for n in range(120)
    ]
    await cache.record(*runs)
    before = await cache.look(
        {"calls": [{"name": "desk.put", "arguments": {"v": 1}}, {"name": "desk.look", "arguments": {"q": "x"}}], "scenario": "s1"}
    )
    pins = {name: before[name] for name in ("revision", "view", "as_of")}
    answer = await cache.http.post(f"{cache.url}/views", json={})
    await finished(cache, f"/views/{answer.json()['id']}")
    look = (await cache.get("/tools/desk.look"))["spec"]["annotations"]
    assert look["scope"] == "none"
    assert look["inferred"]["scope"]["comparisons"] == 60
    assert look["inferred"]["scope"]["conflicts"] == 0
    assert look["inferred"]["scope"]["upper"] < 0.05
    assert (await cache.get("/tools/desk.read"))["spec"]["annotations"]["scope"] == "group"
    fixed = (await cache.get("/tools/desk.fixed"))["spec"]["annotations"]
    assert (fixed["scope"], fixed["inferred"]["recorded_scope"]["finest"]) == ("all", "none")
    view = await cache.get(f"/views/{answer.json()['id']}")
    assert view["learning"]["required"] <= 40
    assert view["learning"]["proven"] is True

    asked = {
        "calls": [
            {"name": "desk.put", "arguments": {"v": 7}},
            {"name": "desk.put", "arguments": {"v": 9}},
            {"name": "desk.look", "arguments": {"q": "x"}},
        ],
        "scenario": "s1",
    }
    after = await cache.look(asked)
    assert after["items"][0]["results"][2]["outcome"] == "exact"
    old = await cache.look(asked, **pins)
    assert old["items"][0]["results"][2]["outcome"] == "miss"

    told = await cache.http.post(f"{cache.url}/views", json={"comparisons": 61})
    made = await finished(cache, f"/views/{told.json()['id']}")
    assert made["learning"]["required"] == 61
    assert (await cache.get("/tools/desk.look"))["spec"]["annotations"]["scope"] == "group"

    answer = await cache.http.put(f"{cache.url}/tools/desk.look", json={"scope": "group"})
    await finished(cache, f"/views/{answer.json()['id']}")
    look = (await cache.get("/tools/desk.look"))["spec"]["annotations"]
    assert look["scope"] == "group"
    assert "scope" not in look["inferred"]
    assert (await cache.look(asked))["items"][0]["results"][2]["outcome"] == "miss"


def office(runs: int, rename: dict[str, str] | None = None) -> tuple[list[Track], dict[str, ToolSpec]]:
    """`lamp.get_toggle` changes something though its name says that it looks, `lamp.frob` changes nothing, and a die is rolled."""
    names = rename or {}
    tracks = []
    for n in range(runs):
        chance = n * 2654435761 >> 7
        calls: list[tuple[str, dict[str, Any], Any]] = []
        calls += [("lamp.frob", {"n": n}, "ok")] if chance & 1 else []
        calls += [("lamp.get_toggle", {}, "ok")] if chance & 2 else []
        calls += [("lamp.list_rooms", {}, ["hall"])] if chance & 4 else []
        calls += [("lamp.show_light", {}, bool(chance & 2)), ("dice.read", {}, chance % 6)]
        events = [Event(names.get(name, name), arguments, content, False, step=k) for k, (name, arguments, content) in enumerate(calls)]
        tracks.append(Track(f"r{n}", "s", f"t{n}", events))
    words = ("lamp.frob", "lamp.get_toggle", "lamp.list_rooms", "lamp.show_light", "dice.read")
    specs = {names.get(name, name): spec(names.get(name, name)) for name in words}
    return tracks, {tool.spec.name: tool.spec for tool in view_tools(specs, {})}


RENAMED = {
    "lamp.frob": "reactor.frob",
    "lamp.get_toggle": "reactor.get_valve",
    "lamp.list_rooms": "reactor.list_pipes",
    "lamp.show_light": "reactor.show_pressure",
    "dice.read": "geiger.read",
}


@pytest.mark.parametrize("rename", [{}, RENAMED])
def test_recordings_decide_what_mutates_whatever_the_names(rename: dict[str, str]):
    tracks, specs = office(400, rename)
    found = annotated(specs, traces_of(tracks, specs))
    said = {old: found[rename.get(old, old)].annotations for old in RENAMED}
    assert {old: a.mutating for old, a in said.items()} == {
        "lamp.frob": False,
        "lamp.get_toggle": True,
        "lamp.list_rooms": False,
        "lamp.show_light": False,
        "dice.read": False,
    }
    toggle, frob, rooms = (said[name].inferred["mutating"] for name in ("lamp.get_toggle", "lamp.frob", "lamp.list_rooms"))
    assert (toggle["from"], toggle["strength"]) == ("recordings", "strong")
    assert toggle["differing"] > toggle["comparisons"] / 2
    assert (frob["from"], frob["differing"]) == ("recordings", 0)
    assert (rooms["from"], rooms["strength"], rooms["recordings"]["differing"]) == ("name", "weak", 0)
    assert {old: a.stochastic for old, a in said.items()}["dice.read"] is True
    assert said["lamp.show_light"].stochastic is not True
    learned, _ = learned_scopes(of_tracks(tracks, found))
    assert learned[rename.get("lamp.show_light", "lamp.show_light")].scope is Scope.GROUP


def test_few_comparisons_leave_the_prior_and_what_is_given_stays():
    tracks, specs = office(12)
    found = annotated(specs, traces_of(tracks, specs))
    assert [found[name].annotations.mutating for name in ("lamp.frob", "lamp.get_toggle")] == [None, False]
    assert found["lamp.get_toggle"].annotations.inferred["mutating"]["strength"] == "weak"
    tracks, specs = office(400)
    given = {"lamp.get_toggle": Annotations(mutating=False), "dice.read": Annotations(stochastic=False)}
    specs = {tool.spec.name: tool.spec for tool in view_tools(specs, given)}
    found = annotated(specs, traces_of(tracks, specs))
    assert found["lamp.get_toggle"].annotations.mutating is False
    assert "mutating" not in found["lamp.get_toggle"].annotations.inferred
    assert found["dice.read"].annotations.stochastic is False


def test_a_verb_that_changes_is_not_cleared_by_reads_that_see_nothing():
    specs = {name: spec(name) for name in ("box.send", "box.get")}
    specs = {tool.spec.name: tool.spec for tool in view_tools(specs, {})}
    tracks = [
        Track(
            f"r{n}",
            "s",
            f"t{n}",
            [*([Event("box.send", {"n": n}, "ok", False, step=0)] if n % 2 else []), Event("box.get", {}, "x", False, step=1)],
        )
        for n in range(400)
    ]
    assert annotated(specs, traces_of(tracks, specs))["box.send"].annotations.mutating is True


async def test_a_tool_whose_argument_holds_sql_folds_its_texts(cache: Cache):
    text = {"type": "string", "description": "The SQL statement"}
    tools = [tool("run_statement", {"text": text}, mutating=False, scope="none"), tool("ask", {"text": {"type": "string"}}, mutating=False)]
    calls = [("run_statement", {"text": f"SELECT a FROM t WHERE x = {n}"}, str(n)) for n in range(6)]  # noqa: S608 - never run
    await cache.record(trajectory("r1", [*calls, ("ask", {"text": "SELECT a"}, "a")], tools=tools))
    asked = {"text": "select a\nfrom t -- all of it\nwhere x=3;"}
    assert (await cache.one("run_statement", asked))["outcome"] == "miss"
    answer = await cache.http.post(f"{cache.url}/views", json={})
    await finished(cache, f"/views/{answer.json()['id']}")
    said = (await cache.get("/tools/run_statement"))["spec"]["annotations"]
    assert said["canonicaliser"] == "sql"
    assert said["inferred"]["canonicaliser"]["read"] == 6
    found = await cache.one("run_statement", asked)
    assert (found["outcome"], found["result"]["content"]) == ("exact", "3")
    assert (await cache.one("run_statement", {"text": "select a from t where x=33"}))["outcome"] == "miss"
    assert (await cache.one("run_statement", {"text": "select a from t where x='3'"}))["outcome"] == "miss"
    assert (await cache.get("/tools/ask"))["spec"]["annotations"]["canonicaliser"] is None
    refused = await cache.http.put(f"{cache.url}/tools/ask", json={"canonicaliser": "xml"})
    assert refused.status_code == 422
