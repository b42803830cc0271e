"""Evaluation and rejection: what counts as success, as accepted, as a wrong answer of the cache. The world is the demo's own, over HTTP."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from cacherl.api.trainer import EvaluateSpec
from cacherl.errors import InputError, LiveToolError, NotFoundError
from cacherl.evaluation import Served, Way
from cacherl.score import Score, ScoreStatus
from cacherl.testing import answered, episode
from cacherl.tier import CallOutcome, ToolResult
from cacherl.trajectory import Task
from demo.config import DataSettings
from demo.tasks import exercises
from demo.world.engine import Session
from demo.world.server import app
from services.trainer.evaluate import courses, way_result
from services.trainer.live_world import LiveWorld, same
from services.trainer.reject import accepted, demonstration


@pytest.fixture(scope="module")
def world() -> Iterator[LiveWorld]:
    server = uvicorn.Server(uvicorn.Config(app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    live = LiveWorld({"town": f"http://127.0.0.1:{port}"}, "town")
    yield live
    live.close()
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def exercise() -> Any:
    found = exercises(DataSettings(towns=1, validation_towns=1), 0, 1)
    return next(item for item in found if item.kind == "orders.status")


def played(task: Task, *, answer: str | None = None, spoil: bool = False, outcome: str = "exact") -> Any:
    """The reference calls, answered as the world answers (or not), in an episode that says the reference's answer."""
    assert task.reference is not None
    session = Session(task.scenario)
    calls = []
    for number, call in enumerate(task.reference.calls):
        content, is_error = session.call(call.name, call.arguments)
        result = ToolResult(content='{"status": "lost"}' if spoil and number == 2 else content, is_error=is_error)
        calls.append(answered(call.name, call.arguments, outcome=outcome, result=result))
    return episode(*calls, answer=answer or task.reference.answer or "", solves=task)


def test_a_cached_episode_succeeds_by_the_worlds_own_check(world: LiveWorld, exercise: Any) -> None:
    served: dict[str, Served] = {}
    assert world.replayed(played(exercise.task), exercise.task, served)
    assert served["exact"] == Served(calls=len(exercise.task.reference.calls), false_hits=0)
    assert not world.replayed(played(exercise.task, answer="I could not find it."), exercise.task, {})


def test_an_answer_of_the_cache_that_the_world_would_not_give_is_a_false_hit(world: LiveWorld, exercise: Any) -> None:
    served: dict[str, Served] = {}
    world.replayed(played(exercise.task, spoil=True, outcome="fuzzy"), exercise.task, served)
    assert served["fuzzy"].false_hits == 1


def test_a_miss_is_no_hit(world: LiveWorld, exercise: Any) -> None:
    served: dict[str, Served] = {}
    world.replayed(played(exercise.task, outcome="miss"), exercise.task, served)
    assert served == {}


def test_a_world_that_is_not_configured_or_away_is_said(exercise: Any) -> None:
    with pytest.raises(NotFoundError):
        LiveWorld({}, "town")
    away = LiveWorld({"town": "http://127.0.0.1:9"}, "town")
    with pytest.raises(LiveToolError):
        away.replayed(played(exercise.task), exercise.task, {})
    away.close()


@pytest.mark.parametrize(
    ("served", "truth", "equal"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}', True),
        ({"a": 1}, '{"a": 1}', True),
        (" fine ", "fine", True),
        ('{"a": 1}', '{"a": 2}', False),
        ("[1, 2]", "[2, 1]", False),
    ],
)
def test_results_are_compared_by_what_they_say(served: Any, truth: Any, equal: bool) -> None:
    assert same(ToolResult(content=served), ToolResult(content=truth)) is equal
    assert not same(ToolResult(content=served, is_error=True), ToolResult(content=truth))


def score(number: int, answer: float | None, status: ScoreStatus = ScoreStatus.SCORED) -> Score:
    return Score(episode_id=f"e{number}", episode_hash="h", status=status, total=answer, r_answer=answer)


def test_only_well_rated_episodes_whose_every_call_was_exact_are_accepted() -> None:
    fine = episode(answered("a.find", {"x": 1}), id="e0")
    guessed = episode(answered("a.find", {"x": 1}, outcome="fuzzy"), id="e1")
    idle = episode(id="e2")
    episodes = [fine, guessed, idle, fine, fine]
    scores = [score(0, 1.0), score(1, 1.0), score(2, 1.0), score(3, 0.6), score(4, None, ScoreStatus.ABSTAINED)]
    assert accepted(episodes, scores, min_rating=0.8, cap_per_tool=None) == [fine]


def test_no_tool_fills_the_lot() -> None:
    episodes = [episode(answered(name, {"x": n}), id=f"e{n}") for n, name in enumerate(["a.find", "a.find", "b.find", "a.find"])]
    kept = accepted(episodes, [score(n, 1.0) for n in range(4)], min_rating=0.8, cap_per_tool=2)
    assert [e.id for e in kept] == ["e0", "e1", "e2"]


def test_an_accepted_episode_is_a_demonstration_that_says_who_accepted_it(exercise: Any) -> None:
    found = demonstration(played(exercise.task), exercise.task, "p@3")
    assert found.outcome.accepted
    assert found.outcome.source == "judge"
    assert found.tools == exercise.task.tools


def test_a_failed_episode_is_null_in_every_vector(exercise: Any) -> None:
    good = played(exercise.task)
    bad = good.model_copy(update={"index": 1, "status": "failed", "stop_reason": "infrastructure", "id": "eps_1"})
    result = way_result([exercise.task], 2, [good, bad], [score(0, 1.0), score(1, None, ScoreStatus.UNSCORABLE)], [1.0, None])
    (row,) = result.tasks
    assert (row.success_K, row.answer_K, row.reward_K) == ([1.0, None], [1.0, None], [1.0, None])
    assert row.process_accuracy_K == [1.0, None]
    assert result.failed == 1
    assert result.outcomes == {str(CallOutcome.EXACT): len(good.calls)}


def test_the_ways_that_a_spec_asks_for() -> None:
    spec = EvaluateSpec(policy="p", tasks="t", live_cache="l", live_server="town", cached="c", cached_in="c")
    assert [c.way for c in courses(spec)] == [Way.LIVE, Way.LIVE_GREEDY, Way.CACHED, Way.CACHED_IN]
    assert [c.way for c in courses(EvaluateSpec(policy="p", tasks="t", cached="c"))] == [Way.CACHED]
    with pytest.raises(InputError):
        courses(EvaluateSpec(policy="p", tasks="t"))
