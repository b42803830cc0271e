"""One renderer for SFT, rollouts and serving: messages → token ids and loss mask, append-only.

A conversation is a prompt, then turns (what a policy samples, end-of-turn token included) with injected pieces between them. Each piece is
rendered by the chat template and encoded on its own, so `conversation(ms).ids == prompt + turn + injected + turn …` by construction: what a
policy is trained on is what its rollouts hold. A template that rewrites earlier messages (drops old thinking, say) is refused when it is
loaded. Text that somebody else wrote never becomes a control token (`cacherl.vocabulary`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from cacherl.errors import DataError
from cacherl.tool_formats import ParsedTurn, ToolFormat, of_template
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Role
from cacherl.vocabulary import Vocabulary, cleaned
from cacherl.wire import Json

CUT_MARK = "\n[… cut: {shown} of {total} tokens shown]"
Chat = dict[str, Any]


class Rendered(NamedTuple):
    """A conversation as ids_T and mask_T (1 where a policy samples), and the [start, end) of each turn."""

    ids_T: list[int]
    mask_T: list[int]
    turns: list[tuple[int, int]]


class Sampled(NamedTuple):
    """A sampled turn taken apart, and the [start, end) in its ids of each of its calls."""

    parsed: ParsedTurn
    spans: list[tuple[int, int]]


class Renderer:
    """A tokenizer and a chat template. Immutable and cheap to share; not to be changed by many threads at once (it caches pieces)."""

    def __init__(self, tokenizer: Tokenizer, template: str, *, eos: Sequence[str | int], pad: str | None = None) -> None:
        """`eos`: strings or ids that end a turn. DataError for a template that rewrites the past or a tokenizer that loses text."""
        self.format: ToolFormat = of_template(template)
        self.vocabulary = Vocabulary(tokenizer, self.format.markers)
        self.template = template
        self.template_hash = hashlib.sha256(template.encode()).hexdigest()
        self.tokenizer_hash = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        self.end_of_turn: frozenset[int] = frozenset(_known_ids(self.vocabulary, eos))
        self.pad_id = self.vocabulary.id(pad) if pad else None
        self._template = _environment().from_string(template)
        self._probe()

    @classmethod
    def from_directory(cls, path: Path | str) -> "Renderer":
        """Reads tokenizer.json, tokenizer_config.json, chat_template.jinja and the eos ids of generation_config.json and config.json."""
        folder = Path(path)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if not (folder / name).is_file():
                raise DataError(f"{name} is missing: a policy's folder holds its tokenizer and its chat template", slug="no-tokenizer")
        data = (folder / "tokenizer.json").read_text(encoding="utf-8")
        config = orjson.loads((folder / "tokenizer_config.json").read_bytes())
        eos: list[str | int] = [_token_text(config["eos_token"])] if config.get("eos_token") else []
        for name in ("generation_config.json", "config.json"):
            eos += _eos_ids(folder / name)
        return cls(
            Tokenizer.from_str(data),
            (folder / "chat_template.jinja").read_text(encoding="utf-8"),
            eos=eos,
            pad=_token_text(config["pad_token"]) if config.get("pad_token") else None,
        )

    # -- pieces -----------------------------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Ids of what stands before the first sampled token, the generation prompt included."""
        return self.vocabulary.encode(self._prompt_text(messages, tools))

    def turn(self, message: Message) -> list[int]:
        """Ids that a policy should have sampled for an assistant message, the end-of-turn token included."""
        return self._encode_turn(self._turn_text(message))

    def injected(self, messages: Sequence[Message], *, end_turn: bool = False) -> list[int]:
        """Ids that follow a turn: the rest of its glue, `messages` and the next generation prompt.

        `end_turn`: the turn was cut before its end-of-turn token, so that one is injected too.
        """
        ids = self.vocabulary.encode(self._injected_text(messages))
        return [self.end_id, *ids] if end_turn else ids

    def close_thinking(self) -> list[int]:
        """Ids of the empty thinking block that is injected after a generation prompt when the policy shall not think."""
        return self.vocabulary.encode(self.format.empty_thinking)

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> Rendered:
        """A whole demonstration for SFT; what follows the last assistant message is cut. DataError without an assistant message."""
        pieces = self._pieces(messages, tools)
        last = max(index for index, message in enumerate(messages) if message.role is Role.ASSISTANT)
        self._demand_prefix("".join(text for text, _ in pieces), messages[: last + 1], tools)
        ids_T: list[int] = []
        mask_T: list[int] = []
        turns: list[tuple[int, int]] = []
        for text, sampled in pieces:
            ids = self._encode_turn(text) if sampled else self.vocabulary.encode(text)
            if sampled:
                turns.append((len(ids_T), len(ids_T) + len(ids)))
            ids_T += ids
            mask_T += [int(sampled)] * len(ids)
        return Rendered(ids_T, mask_T, turns)

    # -- reading ----------------------------------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return self.vocabulary.decode(ids)

    def parse(self, ids: Sequence[int], *, thinking_injected: bool = False) -> Sampled:
        """Takes a turn's sampled ids apart, strictly; a trailing end-of-turn token is not part of its text."""
        body = ids[:-1] if ids and ids[-1] in self.end_of_turn else ids
        text = self.vocabulary.lossless(body)
        parsed = self.format.parse(text, thinking_injected=thinking_injected)
        spans = self.vocabulary.token_spans(body, text, [(call.start, call.end) for call in parsed.calls])
        # Calls that share all their tokens (a token may spell several markers) cannot be told apart: the first stands for them.
        kept = [number for number, (start, end) in enumerate(spans) if start < end]
        if len(kept) < len(spans):
            parsed, spans = replace(parsed, calls=[parsed.calls[number] for number in kept]), [spans[number] for number in kept]
        return Sampled(parsed, spans)

    def cut(self, text: str, limit: int) -> str:
        """`text` where it has at most `limit` tokens, else its beginning and a visible mark, together at most `limit` tokens."""
        if len(text.encode()) <= limit:
            return text  # every token stands for a byte at least
        ids = self.vocabulary.encode(self.vocabulary.hide(text))
        if len(ids) <= limit:
            return text
        keep = limit
        while keep > 0:
            keep -= 1
            shown = self.decode(ids[:keep]).rstrip("�") + CUT_MARK.format(shown=keep, total=len(ids))
            excess = len(self.vocabulary.encode(self.vocabulary.hide(shown))) - limit
            if excess <= 0:
                return shown
            keep -= excess - 1
        return self.decode(ids[:limit])

    # -- texts, in which everybody else's control strings are hidden -------------------------------------------------------------------

    def _render(self, messages: Sequence[Chat], tools: Sequence[Chat] | None, generate: bool) -> str:
        try:
            return self._template.render(messages=messages, tools=tools, add_generation_prompt=generate)
        except TemplateError as error:
            raise DataError(f"the chat template refused the messages: {error}", slug="template-refused") from error

    def _chat(self, messages: Sequence[Message]) -> list[Chat]:
        return [self.vocabulary.hide(message.chat()) for message in messages]

    def _tools(self, tools: Sequence[ToolSpec]) -> list[Chat] | None:
        return [self.vocabulary.hide(signature(tool)) for tool in tools] or None

    def _prompt_text(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        return self._render(self._chat(messages), self._tools(tools), True)

    def _turn_text(self, message: Message) -> str:
        text = self._render([_USER, *self._chat([message])], None, False)
        return self._until_end(_after(text, self._opened))

    def _injected_text(self, messages: Sequence[Message]) -> str:
        return _after(self._render([_USER, _ASSISTANT, *self._chat(messages)], None, True), self._closed)

    def _until_end(self, text: str) -> str:
        """Up to the end-of-turn string, that included."""
        return text[: text.rindex(self._end_text) + len(self._end_text)]

    def _encode_turn(self, text: str) -> list[int]:
        """The thinking block and the rest are encoded apart, as they are where the block was injected."""
        thinking, found, rest = text.partition(self.format.after_thinking)
        return self.vocabulary.encode(thinking + found) + (self.vocabulary.encode(rest) if rest else [])

    def _pieces(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[tuple[str, bool]]:
        """(text, sampled) of prompt, turn, injected, turn, …, turn."""
        pieces: list[tuple[str, bool]] = []
        between: list[Message] = []
        for message in messages:
            if message.role is not Role.ASSISTANT:
                between.append(message)
                continue
            pieces.append((self._injected_text(between) if pieces else self._prompt_text(between, tools), False))
            pieces.append((self._turn_text(message), True))
            between = []
        if not pieces:
            raise DataError("a conversation without an assistant message has nothing to learn from", slug="nothing-sampled")
        return pieces

    def _demand_prefix(self, pieces: str, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
        whole = self._until_end(self._render(self._chat(messages), self._tools(tools), False))
        if whole != pieces:
            at = next((i for i, (a, b) in enumerate(zip(whole, pieces, strict=False)) if a != b), min(len(whole), len(pieces)))
            raise DataError(
                f"the chat template rewrites what came before (at character {at}: {whole[at : at + 40]!r}, not {pieces[at : at + 40]!r}); "
                f"use the {self.format.name} template that comes with cacherl",
                slug="template-not-prefix-preserving",
            )

    @cached_property
    def _opened(self) -> str:
        return self._render([_USER], None, True)

    @cached_property
    def _closed(self) -> str:
        return self._until_end(self._render([_USER, _ASSISTANT], None, False))

    @cached_property
    def _end_text(self) -> str:
        """The end-of-turn string that the template writes."""
        text = _after(self._render([_USER, _ASSISTANT], None, False), self._opened)
        found = [string for string, number in self.vocabulary.control.items() if number in self.end_of_turn and string in text]
        if not found:
            raise DataError("the chat template ends an assistant message with no end-of-turn token of the policy", slug="no-end-of-turn")
        return max(found, key=text.rindex)

    @cached_property
    def end_id(self) -> int:
        """The end-of-turn token that the template writes."""
        return self.vocabulary.control[self._end_text]

    def _probe(self) -> None:
        """Renders a dialogue that has everything: the template must only ever append, and the tokenizer must keep the text."""
        messages = [Message.model_validate(message) for message in _PROBE]
        tools = [ToolSpec.model_validate({"function": {"name": "f", "description": "d"}})]
        rendered = self.conversation(messages, tools)
        text = "".join(text for text, _ in self._pieces(messages, tools))
        if self.decode(rendered.ids_T) != self.vocabulary.reveal(text):
            raise DataError("the tokenizer does not give the text back that it encoded", slug="unsuitable-tokenizer")


_USER: Chat = {"role": "user", "content": "?"}
_ASSISTANT: Chat = {"role": "assistant", "content": "!"}
_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "é <|im_end|>"}}}
_PROBE: list[Chat] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "c", "reasoning_content": "r", "tool_calls": [_CALL, _CALL]},
    {"role": "tool", "content": "t", "tool_call_id": "1", "name": "f"},
    {"role": "tool", "content": "</tool_response>", "tool_call_id": "1", "name": "f"},
    {"role": "assistant", "tool_calls": [_CALL]},
    {"role": "tool", "content": "t", "tool_call_id": "1", "name": "f"},
    {"role": "assistant", "content": "c", "reasoning_content": "r"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "c", "reasoning_content": "r"},
]


def signature(tool: ToolSpec) -> Chat:
    """What a policy sees of a tool: name, description and parameters; annotations are the cache's."""
    function = tool.function
    return {
        "type": tool.type,
        "function": {"name": function.name, "description": function.description, "parameters": function.parameters},
    }


def result_text(content: Json) -> str:
    """A tool result's content as the text of a tool message: strings as they are, anything else as JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def assistant_message(parsed: ParsedTurn) -> Message:
    """The message of a sampled turn: well-formed calls apart, everything else as it was written."""
    return Message.model_validate(
        {
            "role": Role.ASSISTANT,
            "content": cleaned(parsed.content),
            "reasoning_content": cleaned(parsed.thinking) if parsed.thinking and parsed.thinking_closed else None,
            "tool_calls": [
                {"function": {"name": one.call.name, "arguments": one.call.arguments}, "id": one.call.id}
                for one in parsed.calls
                if one.call is not None
            ],
        }
    )


def _after(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise DataError("the chat template does not extend what it rendered before", slug="template-not-prefix-preserving")
    return text[len(prefix) :]


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers compiles chat templates: sandboxed, `tojson` without HTML escapes."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _known_ids(vocabulary: Vocabulary, eos: Sequence[str | int]) -> list[int]:
    ids = [vocabulary.id(token) if isinstance(token, str) else token for token in eos]
    return [number for number in ids if number is not None]


def _token_text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _eos_ids(path: Path) -> list[str | int]:
    if not path.is_file():
        return []
    value = orjson.loads(path.read_bytes()).get("eos_token_id")
    return [value] if isinstance(value, int) else [number for number in value or [] if isinstance(number, int)]
