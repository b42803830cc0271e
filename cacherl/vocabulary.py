"""A tokenizer whose control tokens are told apart from text.

`tokenizers` turns the string `<|im_end|>` into the control id wherever it stands, in a tool result too. Here text that somebody else wrote
goes through `hide` before the template sees it: each control string in it becomes a placeholder, and `encode` writes for a placeholder
the ids of the same characters as ordinary text. So only the template itself can write control ids, and decoding gives the text unchanged.
Byte-level tokenizers only (Qwen, Llama 3, GPT, DeepSeek): each token stands for known bytes, so a span of text has an exact span of tokens.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import orjson
from tokenizers import Tokenizer

from cacherl.errors import DataError

HIDDEN, SHOWN = "\ue000", "\ue001"
"""Around the number of a hidden string. A text's own HIDDEN character is hidden as well, so a placeholder cannot be forged."""
PLACEHOLDER = re.compile(f"{HIDDEN}([0-9]+){SHOWN}")
TAG = re.compile(r"<[^\s<>]+>")
CACHED_PIECES = 8192


class Vocabulary:
    """`tokenizers.Tokenizer` with exact bytes per token and control strings that text cannot write."""

    def __init__(self, tokenizer: Tokenizer, markers: Iterable[str] = ()) -> None:
        """`markers`: strings that are control tokens wherever the tokenizer has them as one, besides its special tokens and tags."""
        document = orjson.loads(tokenizer.to_str())
        if "ByteLevel" not in orjson.dumps(document.get("decoder")).decode():
            raise DataError("the tokenizer is not byte-level: a span of text has no exact span of tokens", slug="unsuitable-tokenizer")
        self._tokenizer = tokenizer
        added = {token["content"]: token for token in document["added_tokens"]}
        wanted = set(markers)
        self.control: dict[str, int] = {
            text: token["id"] for text, token in added.items() if token["special"] or text in wanted or TAG.fullmatch(text)
        }
        """String → id of every control token."""
        self._bytes = _token_bytes(tokenizer, {token["id"]: text for text, token in added.items()})
        self._hidden = [*sorted(self.control, key=len, reverse=True), HIDDEN]
        self._numbers = {text: number for number, text in enumerate(self._hidden)}
        self._pattern = re.compile("|".join(map(re.escape, self._hidden)))
        self._ordinary = _ordinary(document, self._hidden, frozenset(self.control.values()))
        self._encode_plain = lru_cache(CACHED_PIECES)(self._encode_uncached)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self._bytes)

    def id(self, text: str) -> int | None:
        """The id of a token's string."""
        return self._tokenizer.token_to_id(text)

    def hide(self, value: Any) -> Any:
        """A copy of a JSON value in which no string, key or value, holds a control string."""
        match value:
            case str():
                return self._pattern.sub(self._hide_match, value)
            case list() | tuple():
                return [self.hide(item) for item in value]
            case dict():
                return {self.hide(key): self.hide(item) for key, item in value.items()}
            case _:
                return value

    def _hide_match(self, match: re.Match[str]) -> str:
        return f"{HIDDEN}{self._numbers[match[0]]}{SHOWN}"

    def reveal(self, text: str) -> str:
        """The text behind the placeholders."""
        return PLACEHOLDER.sub(lambda match: self._hidden[int(match[1])], text) if HIDDEN in text else text

    def encode(self, text: str) -> list[int]:
        """ids_N of a rendered text: control strings are control ids, placeholders are ordinary text."""
        if HIDDEN not in text:
            return list(self._encode_plain(text))
        ids_N: list[int] = []
        for index, part in enumerate(PLACEHOLDER.split(text)):
            if index % 2:
                ids_N += self._ordinary[int(part)]
            elif part:
                ids_N += self._encode_plain(part)
        return ids_N

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included; bytes that are not UTF-8 become U+FFFD. Ids without a token are nothing."""
        return self._joined(ids).decode("utf-8", "replace")

    def lossless(self, ids: Sequence[int]) -> str:
        """The text of ids with bytes that are not UTF-8 as lone surrogates, so that positions can be mapped back; see `cleaned`."""
        return self._joined(ids).decode("utf-8", "surrogateescape")

    def _joined(self, ids: Sequence[int]) -> bytes:
        table, size = self._bytes, len(self._bytes)
        return b"".join([table[i] if i < size else b"" for i in ids])

    def token_spans(self, ids: Sequence[int], text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """[start, end) in tokens of each [start, end) in `lossless(ids)`; spans are ordered and stay disjoint."""
        size = len(self._bytes)
        ends = list(accumulate(len(self._bytes[i]) if i < size else 0 for i in ids))
        out: list[tuple[int, int]] = []
        least = 0
        for start, end in spans:
            first = bisect_right(ends, byte_length(text[:start]))
            last = bisect_left(ends, byte_length(text[:end])) + 1
            least = max(first, least), last
            out.append(least)
            least = last
        return out


def byte_length(text: str) -> int:
    """UTF-8 bytes of a lossless text."""
    return len(text.encode("utf-8", "surrogateescape"))


def cleaned(text: str) -> str:
    """A lossless text with U+FFFD for what was not UTF-8: fit for JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _byte_characters() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes (GPT-2's table): printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(0x100 + index): byte for index, byte in enumerate(rest)}


def _token_bytes(tokenizer: Tokenizer, added: dict[int, str]) -> list[bytes]:
    """bytes_V: what each id stands for; b"" for an id without a token."""
    characters = _byte_characters()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        if number not in added and all(character in characters for character in token):
            table[number] = bytes(characters[character] for character in token)
        else:
            table[number] = token.encode()
    return table


def _ordinary(document: dict[str, Any], texts: Sequence[str], control: frozenset[int]) -> list[tuple[int, ...]]:
    """The ids of control strings as ordinary text, from the same tokenizer without its added tokens."""
    bare = Tokenizer.from_str(orjson.dumps(document | {"added_tokens": [], "post_processor": None}).decode())
    out: list[tuple[int, ...]] = []
    for text in texts:
        # Some models take a whole word that stands in their vocabulary: then its characters are encoded in two parts.
        for parts in ([text], [text[:1], text[1:]]):
            ids = tuple(number for part in parts for number in bare.encode(part, add_special_tokens=False).ids)
            if not control.intersection(ids):
                break
        else:
            raise DataError(f"the tokenizer cannot write {text!r} as ordinary text", slug="unsuitable-tokenizer")
        out.append(ids)
    return out
