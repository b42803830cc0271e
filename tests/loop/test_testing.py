"""What `cacherl.testing` promises to users."""

import pytest

from cacherl.api.cache import LookupCall, LookupItem
from cacherl.engine import GenerationRequest, PolicyVersion, Sampling
from cacherl.episode import Episode, StopReason, violations
from cacherl.errors import ConflictError
from cacherl.rendering import Renderer
from cacherl.testing import POLICY, InMemoryToolCache, ScriptedEngine, answered, episode, task, tool, trajectory
from cacherl.tier import CallOutcome

BALANCE, PAY = tool("balance", "account", mutating=False), tool("pay", "account", mutating=True)
ACCOUNT = {"account": "A12"}


def item(*names: str, state: str | None = None, **fields: object) -> LookupItem:
    calls = [LookupCall(name=name, arguments=dict(ACCOUNT)) for name in names]
    return LookupItem.model_validate({"calls": calls, "scenario": "s", "state": state} | fields)


async def test_recordings_answer_in_the_state_that_they_were_made_in():
    recorded = trajectory(("balance", ACCOUNT, "100"), ("pay", ACCOUNT, "paid"), ("balance", ACCOUNT, "70"), tools=[BALANCE, PAY])
    cache = InMemoryToolCache.from_trajectories([recorded])
    (first,) = await cache.lookup([item("balance", "pay")])
    assert [result.result.content for result in first.results] == ["100", "paid"]
    (second,) = await cache.lookup([item("balance", state=first.state)])
    assert second.results[0].result.content == "70"
    (twice,) = await cache.lookup([item("pay", "pay")])
    assert [result.outcome for result in twice.results] == [CallOutcome.EXACT, CallOutcome.MISS]
    (elsewhere,) = await cache.lookup([item("balance", scenario="other")])
    (left_out,) = await cache.lookup([item("balance", exclude_sources=["trj"])])
    assert [answer.results[0].outcome for answer in (elsewhere, left_out)] == [CallOutcome.MISS, CallOutcome.MISS]


async def _say(engine: ScriptedEngine, *requests: GenerationRequest, policy: PolicyVersion = POLICY) -> list[list[int]]:
    return [completion.ids async for completion in engine.generate(policy, requests)]


def request(episode_id: str = "e", **sampling: int) -> GenerationRequest:
    return GenerationRequest(id=episode_id, episode=episode_id, ids=[1], sampling=Sampling.model_validate(sampling))


async def test_a_script_says_its_turns_in_order_within_the_limits(renderer: Renderer):
    engine = ScriptedEngine(renderer, ["one", "two"])
    one, two = renderer.vocabulary.encode("one"), renderer.vocabulary.encode("two")
    assert await _say(engine, request()) == [[*one, renderer.end_id]]
    assert await _say(engine, request()) == [[*two, renderer.end_id]]
    assert await _say(engine, request("f", max_tokens=1)) == [one[:1]]
    (banned,) = await _say(engine, request("g", min_tokens=9))
    assert len(banned) == 10
    assert not renderer.end_of_turn & set(banned[:-1])


async def test_a_script_answers_only_for_what_it_holds(renderer: Renderer):
    other = PolicyVersion(name="other", version=3)
    engine = ScriptedEngine(renderer, ["x"])
    with pytest.raises(ConflictError):
        await _say(engine, request(), policy=other)
    await engine.load(other, "other/3", "0" * 64)
    assert len(await _say(engine, request(), policy=other)) == 1


def test_a_made_episode_is_sound():
    calls = [answered("balance", ACCOUNT, "100"), answered("pay", ACCOUNT, outcome=CallOutcome.MISS, fidelity=0.0)]
    made = episode(*calls, answer="It is 100.", solves=task("How much?", tools=[BALANCE, PAY]))
    assert violations(made) == []
    assert (made.answer, made.stop_reason) == ("It is 100.", StopReason.FINAL_ANSWER)
    assert [call.outcome for call in made.calls] == [CallOutcome.EXACT, CallOutcome.MISS]
    assert Episode.model_validate_json(made.model_dump_json(by_alias=True)) == made
