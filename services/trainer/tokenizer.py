"""A policy's own tokenizer: byte-level BPE trained on the rendered conversations.

What decides whether a tiny model succeeds is copying entities from a query and from results into later calls; a copy of one token is
learnt, a copy of five is not. So the pre-tokeniser keeps identifiers (A37, ORD-1023), numbers, dates and names whole, with the space
before a name apart from it, and a vocabulary that is large enough makes each one token. Optional boilerplate: the fixed pieces of the
tool schemas' JSON as single tokens, found by rendering probes whose names and values are markers, so nothing here knows how a template
writes JSON. Text that a tool returned may hold those pieces too: they are ordinary text, never control tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cacherl.api.trainer import TokenizerSpec
from cacherl.tool_spec import Function, ToolSpec
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Role

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, START, END)
"""Tokens that text can never spell: the renderer escapes them in tool results."""

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")

PATTERN = (
    r"\p{L}[\p{L}_]*-?\d+[\p{L}\d]*"  # identifiers: A37, ORD-1023, week12
    r"|\d+(?:[.:/-]\d+)*"  # numbers, times, dates
    r"|\p{Lu}\p{L}*"  # names, without the space before them
    r"| ?(?!\p{Lu})[\p{L}_]++(?!-?\d)"  # words, with it
    r"|\n+| |[^\p{L}\d\n ]+(?: [^\p{L}\d\n ]+)*"
)

_MARKER = "zqxjkvzq"
_SHORTEST_PIECE = 5

Render = Callable[[Sequence[Message], Sequence[ToolSpec]], str]
"""A conversation and its tools as the text that the policy's template makes of them."""


def train(texts: Iterable[str], spec: TokenizerSpec, template: str, pieces: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Trains on `texts` (rendered conversations, read once). `pieces` become single tokens. The same texts give the same tokenizer."""
    added = sorted({*CONTROL, *MARKS, *pieces}, key=lambda token: (-len(token), token))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(spec.pattern or PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(256, spec.vocab_size - len(added)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(_between(texts, added), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*MARKS, *sorted(pieces))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        eos_token=END,
        pad_token=END_OF_TEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _between(texts: Iterable[str], added: Sequence[str]) -> Iterator[str]:
    """What is left of the texts between added tokens, longest first: merges are learnt on nothing else."""
    for text in texts:
        yield from chunks(text, added)


def chunks(text: str, added: Sequence[str]) -> list[str]:
    """What stands between added tokens."""
    return [chunk for chunk in _without(text, sorted(added, key=len, reverse=True), "\0").split("\0") if chunk]


def _without(text: str, tokens: Sequence[str], mark: str) -> str:
    return reduce(lambda rest, token: rest.replace(token, mark), tokens, text)


def boilerplate(render: Render) -> list[str]:
    """The fixed pieces of a rendered tool list and of rendered calls: what stands between the markers of a probe and its control tokens."""
    found: set[str] = set()
    for kinds in (("string", "integer"), ("number", "boolean")):
        for described in (False, True):
            text = _without(render(*_probe(kinds, described)), (*CONTROL, *MARKS), _MARKER)
            found.update(piece for piece in text.split(_MARKER) if len(piece) >= _SHORTEST_PIECE)
    return sorted(found)


def _probe(kinds: Sequence[str], described: bool) -> tuple[list[Message], list[ToolSpec]]:
    extra = {"description": _MARKER} if described else {}
    names = [_MARKER + str(index) + _MARKER for index in range(len(kinds))]
    properties = {name: {"type": kind, **extra} for name, kind in zip(names, kinds, strict=True)}
    parameters = {"type": "object", "properties": properties, "required": names}
    tool = ToolSpec(function=Function(name=_MARKER, description=_MARKER, parameters=parameters))
    call = MessageToolCall(function=CalledFunction(name=_MARKER, arguments={_MARKER: _MARKER, _MARKER + _MARKER: _MARKER}))
    messages = [
        Message(role=Role.SYSTEM, content=_MARKER),
        Message(role=Role.USER, content=_MARKER),
        Message(role=Role.ASSISTANT, reasoning_content=_MARKER, tool_calls=[call]),
        Message(role=Role.TOOL, content=_MARKER),
        Message(role=Role.ASSISTANT, reasoning_content=_MARKER, content=_MARKER),
    ]
    return messages, [tool, tool]
