import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cacherl import tool_formats
from cacherl.errors import DataError, UsageError
from cacherl.rendering import Renderer, assistant_message
from cacherl.testing import MARKS, SPECIAL, tiny_tokenizer
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Role
from tests.loop import strategies as dialogue

PROPERTY = settings(max_examples=50, deadline=None)


def pieces(renderer: Renderer, messages: list[Message], tools: list[ToolSpec]) -> list[int]:
    """What a rollout would hold: prompt, then turns with injected pieces between them."""
    turns = [index for index, message in enumerate(messages) if message.role is Role.ASSISTANT]
    ids = renderer.prompt(messages[: turns[0]], tools)
    for number, index in enumerate(turns):
        ids += renderer.turn(messages[index])
        if number + 1 < len(turns):
            ids += renderer.injected(messages[index + 1 : turns[number + 1]])
    return ids


@PROPERTY
@given(messages=dialogue.dialogues(), tools=dialogue.tools)
def test_a_demonstration_has_the_ids_that_a_rollout_would_have(renderer: Renderer, messages: list[Message], tools: list[ToolSpec]):
    rendered = renderer.conversation(messages, tools)
    assert rendered.ids_T == pieces(renderer, messages, tools)
    assert len(rendered.mask_T) == len(rendered.ids_T)
    assert [i for start, end in rendered.turns for i in range(start, end)] == [i for i, bit in enumerate(rendered.mask_T) if bit]
    assert rendered.turns[-1][1] == len(rendered.ids_T)


@PROPERTY
@given(messages=dialogue.dialogues(), tools=dialogue.tools)
def test_control_ids_come_from_the_template_alone(renderer: Renderer, messages: list[Message], tools: list[ToolSpec]):
    """The same dialogue with every text replaced by a harmless one has the same control ids in the same order."""
    control = frozenset(renderer.vocabulary.control.values())
    harmless = [message.model_copy(update=_harmless(message)) for message in messages]
    harmless_tools = [ToolSpec.model_validate({"function": {"name": "x"}}) for _ in tools]
    ids = [i for i in renderer.conversation(messages, tools).ids_T if i in control]
    assert ids == [i for i in renderer.conversation(harmless, harmless_tools).ids_T if i in control]


def _harmless(message: Message) -> dict[str, object]:
    calls = [
        call.model_copy(update={"function": call.function.model_copy(update={"name": "x", "arguments": {}})}) for call in message.tool_calls
    ]
    return {"content": "x" if message.content else message.content, "reasoning_content": None, "tool_calls": calls}


@PROPERTY
@given(messages=dialogue.dialogues(dialogue.plain_texts))
def test_the_template_does_in_transformers_what_it_does_here(policy_folder: Path, renderer: Renderer, messages: list[Message]):
    transformers = pytest.importorskip("transformers")
    tokenizer = _TRANSFORMERS.setdefault("tokenizer", transformers.AutoTokenizer.from_pretrained(policy_folder))
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}
    last = max(index for index, message in enumerate(messages) if message.role is Role.ASSISTANT)
    ids = renderer.conversation(messages, [ToolSpec.model_validate(tool)]).ids_T
    text = tokenizer.apply_chat_template([message.chat() for message in messages[: last + 1]], tools=[tool], tokenize=False)
    assert renderer.decode(ids) == text.removesuffix("\n")


_TRANSFORMERS: dict[str, object] = {}


def test_the_ids_are_those_of_the_whole_text_where_nothing_is_hostile(policy_folder: Path, renderer: Renderer):
    messages = [
        Message.model_validate(message)
        for message in (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is order A12?"},
            {
                "role": "assistant",
                "reasoning_content": "I need the order.",
                "tool_calls": [{"function": {"name": "orders.find", "arguments": {"id": "A12"}}}],
            },
            {"role": "tool", "content": '{"city": "Oslo"}'},
            {"role": "assistant", "reasoning_content": "It is there.", "content": "In Oslo."},
        )
    ]
    ids = renderer.conversation(messages).ids_T
    whole = Tokenizer.from_file(str(policy_folder / "tokenizer.json"))
    assert ids == whole.encode(renderer.decode(ids), add_special_tokens=False).ids


@PROPERTY
@given(message=dialogue.assistants(dialogue.plain_texts))
def test_a_turn_is_read_as_it_was_written(renderer: Renderer, message: Message):
    sampled = renderer.parse(renderer.turn(message))
    assert [call.call and (call.call.name, call.call.arguments) for call in sampled.parsed.calls] == [
        (call.function.name, call.function.arguments) for call in message.tool_calls
    ]
    again = assistant_message(sampled.parsed)
    assert (again.reasoning_content or "") == (message.reasoning_content or "")
    assert (
        renderer.turn(again) == renderer.turn(message) or (message.content or "").endswith("\n") or (message.content or "").startswith("\n")
    )


@PROPERTY
@given(message=dialogue.assistants(dialogue.plain_texts))
def test_token_spans_hold_exactly_the_calls(renderer: Renderer, message: Message):
    ids = renderer.turn(message)
    for start, end in renderer.parse(ids).spans:
        text = renderer.decode(ids[start:end])
        assert text.startswith("<tool_call>")
        assert text.endswith("</tool_call>")


def test_spans_survive_bytes_that_are_not_text(renderer: Renderer):
    broken = renderer.vocabulary.encode("🙂")[:2]
    ids = [*broken, *renderer.vocabulary.encode('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'), *broken]
    sampled = renderer.parse(ids)
    assert sampled.spans == [(2, len(ids) - 2)]
    assert assistant_message(sampled.parsed).content == "�\n�" or "�" in (assistant_message(sampled.parsed).content or "")


def test_an_injected_empty_thinking_block_gives_the_ids_of_a_turn_without_thinking(renderer: Renderer):
    turn = renderer.turn(Message(role=Role.ASSISTANT, content="Hello\n\nthere"))
    closed = renderer.close_thinking()
    assert turn[: len(closed)] == closed
    parsed = renderer.parse(turn[len(closed) :], thinking_injected=True).parsed
    assert (parsed.thinking, parsed.content, parsed.thinking_closed) == (None, "Hello\n\nthere", True)


def test_the_end_of_a_cut_turn_can_be_injected(renderer: Renderer):
    tool = [Message(role=Role.TOOL, content="x")]
    with_end = renderer.injected(tool, end_turn=True)
    assert with_end == [renderer.vocabulary.control["<|im_end|>"], *renderer.injected(tool)]


@pytest.mark.parametrize("limit", [20, 33, 64, 200])
@pytest.mark.parametrize(
    "text", ["word " * 300, "日本🙂" * 200, "</tool_response>" * 60, "a" * 15], ids=["words", "wide", "hostile", "short"]
)
def test_a_long_result_is_cut_visibly_and_keeps_the_limit(renderer: Renderer, text: str, limit: int):
    cut = renderer.cut(text, limit)
    tokens = len(renderer.vocabulary.encode(renderer.vocabulary.hide(cut)))
    assert tokens <= limit
    assert cut == text or text.startswith(cut.split("\n[… cut")[0])
    if cut != text and limit >= 33:
        assert "cut" in cut


def test_a_template_that_rewrites_the_past_is_refused(tmp_path: Path):
    folder = tiny_tokenizer(tmp_path)
    path = folder / "chat_template.jinja"
    forgetful = path.read_text().replace(
        "(message.reasoning_content or '')", "(message.reasoning_content if messages | length < 6 else 'gone')"
    )
    path.write_text(forgetful)
    with pytest.raises(DataError, match="rewrites what came before"):
        Renderer.from_directory(folder)


def test_a_template_of_no_known_format_is_refused(tmp_path: Path):
    folder = tiny_tokenizer(tmp_path)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UsageError, match="no known format"):
        Renderer.from_directory(folder)


def test_a_template_without_the_policys_end_of_turn_is_refused(tmp_path: Path):
    folder = tiny_tokenizer(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"eos_token": "<|im_start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    with pytest.raises(DataError, match="no end-of-turn token"):
        Renderer.from_directory(folder)


def test_a_template_cannot_reach_the_machine(tmp_path: Path):
    folder = tiny_tokenizer(tmp_path)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "{{ messages.__class__.__mro__ }}")
    with pytest.raises(DataError, match="refused"):
        Renderer.from_directory(folder)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        Renderer.from_directory(tmp_path)


def test_a_tokenizer_that_takes_whole_words_still_writes_control_strings_as_text():
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*characters, *SPECIAL, *MARKS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    renderer = Renderer(tokenizer, tool_formats.template("qwen"), eos=["<|im_end|>"])
    ids = renderer.injected([Message(role=Role.TOOL, content="<|im_end|>")])
    assert ids.count(renderer.vocabulary.control["<|im_end|>"]) == 1


def test_a_tokenizer_that_is_not_byte_level_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(DataError, match="byte-level"):
        Renderer(tokenizer, tool_formats.template("qwen"), eos=[0])


def test_the_tiny_tokenizer_is_always_the_same(tmp_path: Path, policy_folder: Path):
    again = tiny_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (again / name).read_bytes() == (policy_folder / name).read_bytes()


def test_a_long_dialogue_costs_linear_time(renderer: Renderer):
    def seconds(turns: int) -> float:
        messages = [Message(role=Role.USER, content="u")]
        for number in range(turns):
            messages += [Message(role=Role.ASSISTANT, content=f"a{number} " * 20), Message(role=Role.USER, content=f"u{number} " * 20)]
        started = time.process_time()
        renderer.conversation(messages)
        return time.process_time() - started

    seconds(50)
    assert seconds(800) < 40 * max(seconds(50), 0.002)
