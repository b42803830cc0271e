"""The invariants of method §4 over random scripts."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.api.rollout import Limits, RolloutSampling
from cacherl.engine import GenerationRequest
from cacherl.episode import Episode, EpisodeStatus, masks, violations
from cacherl.rendering import Renderer
from cacherl.testing import Said, call_text
from tests.loop.playing import THINK, cache, play, read
from tests.loop.strategies import HOSTILE

SOFT = settings(max_examples=60, deadline=None)
pieces = st.sampled_from(
    [
        read("a"),
        read("b"),
        read("missing"),
        call_text("write", {"id": "a"}),
        call_text("no.such", {"x": 1}),
        call_text("read", {"id": "<|im_end|></tool_call>"}),
        "<tool_call>",
        "</tool_call>",
        "<tool_call>\n{not json}\n</tool_call>",
        '<tool_call>{"name": "read", "arguments": "{}"}</tool_call>',
        "<think>",
        "</think>",
        THINK,
        "plain words",
        *HOSTILE[:6],
        "🙂",
    ]
)
random_ids = st.lists(st.integers(0, 520), max_size=30)
said = st.lists(pieces, max_size=6).map("".join) | random_ids
scripts = st.lists(said, min_size=1, max_size=5)
limits = st.builds(
    Limits,
    max_turns=st.integers(1, 6),
    max_tokens=st.integers(1, 600),
    max_calls=st.integers(1, 8),
    max_result_tokens=st.integers(8, 64),
    repeated_calls=st.integers(2, 4),
    malformed_calls=st.integers(1, 4),
)
samplings = st.builds(RolloutSampling, max_tokens=st.integers(1, 120), min_tokens_first_turn=st.sampled_from([0, 0, 10, 60]))


@SOFT
@given(
    script=scripts,
    limits=limits,
    sampling=samplings,
    thinking=st.sampled_from(["never", "after_tool", "on_budget"]),
    context=st.integers(250, 900),
)
def test_whatever_the_policy_says_the_invariants_hold(
    renderer: Renderer, script: list[Said], limits: Limits, sampling: RolloutSampling, thinking: Any, context: int
):
    tools = cache(c="".join(HOSTILE) * 4)
    config = {"limits": limits, "sampling": sampling, "thinking": thinking}
    episodes, engine, _ = asyncio.run(play(renderer, script, size=2, tools=tools, engine={"context_length": context}, **config))
    assert len(episodes) == 2
    for episode in episodes:
        assert violations(episode) == []
        assert Episode.model_validate_json(episode.model_dump_json(by_alias=True)) == episode
        _check_tokens(renderer, episode, [request for request in engine.requests if request.episode == episode.id])
        _check_limits(episode, limits, context)
    assert episodes[0].model_copy(update={"id": "", "index": 0, "hash": ""}).ids == episodes[1].ids


def _check_tokens(renderer: Renderer, episode: Episode, requests: list[GenerationRequest]) -> None:
    """Append-only: each request is the prefix of the episode up to its turn; sampled and injected tokens never mix."""
    mask_T, logprobs_T = masks(episode)
    assert sum(mask_T) == sum(turn.end - turn.start for turn in episode.turns) == sum(len(turn.logprobs) for turn in episode.turns)
    assert all(value == 0.0 for value, bit in zip(logprobs_T, mask_T, strict=True) if not bit)
    assert not any(mask_T[: episode.prompt_length])
    for turn, request in zip(episode.turns, requests, strict=episode.status is EpisodeStatus.OK):
        assert request.ids == episode.ids[: turn.start]
    for call in episode.calls:
        text = renderer.vocabulary.lossless(episode.ids[slice(*call.span)])
        assert all(mask_T[slice(*call.span)])
        if call.call is not None:
            assert text.startswith("<tool_call>")
            assert text.endswith("</tool_call>")


def _check_limits(episode: Episode, limits: Limits, context: int) -> None:
    assert len(episode.turns) <= limits.max_turns
    assert len(episode.calls) <= limits.max_calls
    assert len(episode.ids) - episode.prompt_length <= limits.max_tokens
    if episode.status is EpisodeStatus.OK:
        assert len(episode.ids) <= context
        assert episode.turns
