"""How the arguments of two calls are compared: what names a thing, and what is free text (method §3.4).

Everything names a thing (ids, numbers, dates, paths, places, enums, short values, and which arguments are there at all) unless it is
shown to be free text. The identity of a call is the digest of all that names a thing: calls of different identity are never alike,
whatever their texts say. Texts of equal identity are compared by the words they share (forms of one word count as one), and vetoed where
a word that itself names a thing (a number, a name written with a capital, a negation, what follows a direction) has no partner. Errors
fall on the careful side: a miss, never another thing's result.
"""

import hashlib
import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from cacherl.canonicalisers import folded_arguments, reads
from cacherl.identifiers import looks_like_identifier
from cacherl.tool_call import dump_canonical
from cacherl.tool_spec import ToolSpec
from services.cache_api.embed import leaves


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


WORD = re.compile(r"\w+(?:[.'@:/+#$%&_-]\w+)*")
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
TEXT_NAMES = _set(
    "query question text message content body description prompt search keyword keywords topic subject note notes "
    "reason comment comments summary instruction instructions phrase sentence term terms title request "
)
"""Words in the name of an argument that say that people write in it."""
OPENERS = _set(
    "a an and any are can check could do does fetch find for get give how i in is list look may my of on our please "
    "retrieve search show tell the to we what when where which who whose why will with would you your "
)
"""Words that begin a question or an order: a capital on them is no name."""
NEGATIONS = _set("no not never none without except excluding unless cannot can't don't doesn't isn't aren't won't non ")
ORDERS = _set("before after over under above below until since than less more fewer")
"""Words that turn the meaning round like a negation."""
DIRECTIONS = _set("from to into between towards")
INFLECTIONS = _set("s es d ed r er ers ing") | {""}
MIN_STEM = 4
FUNCTION_WORD_WEIGHT = 0.25
MIN_WORDS_UNNAMED = 4
MAX_IDENTITY_VALUE = 4096


def identity(name: str, arguments: dict[str, Any], spec: ToolSpec | None) -> bytes:
    """16 bytes: equal for two calls whose arguments differ in free text alone. `arguments` are canonical."""
    named = [[path, None if is_text(path, value, spec) else value] for path, value in leaves(arguments)]
    return hashlib.blake2b(dump_canonical([name, named]), digest_size=16).digest()


def texts(arguments: dict[str, Any], spec: ToolSpec | None) -> dict[str, str]:
    """Path → free text of the arguments that are such."""
    return {path: value for path, value in leaves(arguments) if is_text(path, value, spec)}


def is_text(path: str, value: Any, spec: ToolSpec | None) -> bool:
    """Whether an argument is free text: a string that its schema leaves open, and either its name says so or it reads like a sentence."""
    if not isinstance(value, str) or looks_like_identifier(value):
        return False
    words = words_of(value)
    if len(words) < 2 or (spec is not None and (_is_closed(path, spec) or _is_statement(path, value, spec))):
        return False
    if TEXT_NAMES.intersection(part.lower() for part in PART.findall(path.rsplit("/", 1)[-1])):
        return True
    lower = sum(word.isalpha() and word.islower() for word in words)
    return len(words) >= MIN_WORDS_UNNAMED and 2 * lower >= len(words)


def _is_statement(path: str, text: str, spec: ToolSpec) -> bool:
    """Whether a text is one that the tool's canonicaliser reads: it has been folded, and what still differs is another question."""
    name = spec.annotations.canonicaliser
    return name is not None and path.removeprefix("/") in folded_arguments({path.removeprefix("/"): text}, spec) and reads(name, text)


def _is_closed(path: str, spec: ToolSpec) -> bool:
    """Whether annotations or schema say that a path names a thing."""
    parts = [part for part in path.split("/")[1:] if not part.isdigit()]
    for pointer in spec.annotations.identifier:
        if [part for part in pointer.removeprefix("/arguments").split("/")[1:] if not part.isdigit() and part != "*"] == parts:
            return True
    schema: Any = spec.function.parameters
    for part in parts:
        while isinstance(schema, dict) and isinstance(schema.get("items"), dict):
            schema = schema["items"]
        schema = (schema.get("properties") or {}).get(part) if isinstance(schema, dict) else None
    return isinstance(schema, dict) and bool({"enum", "const", "format", "pattern"} & schema.keys())


def likeness(asked: dict[str, str], recorded: dict[str, str]) -> float:
    """Similarity 0..1 of two sets of free texts under equal identity: that of the pair least alike; 0 where a word vetoes."""
    if asked.keys() != recorded.keys():
        return 0.0
    return min((_text_likeness(asked[path], recorded[path]) for path in asked), default=1.0)


@lru_cache(maxsize=65536)
def _text_likeness(asked: str, recorded: str) -> float:
    if asked == recorded:
        return 1.0
    if veto(asked, recorded) is not None:
        return 0.0
    left, right = ({word.casefold() for word in words_of(text)} for text in (asked, recorded))
    shared = left & right
    for word in sorted(left - shared):
        partner = next((other for other in sorted(right - shared) if inflected(word, other)), None)
        if partner is not None:
            left, right = left - {word}, right - {partner}
            shared.add(word)
    union = sum(map(_weight, left | right | shared))
    return sum(map(_weight, shared)) / union if union else 0.0


def _weight(word: str) -> float:
    """Words that only hold a sentence together say little about what it asks."""
    return FUNCTION_WORD_WEIGHT if word in OPENERS or word in DIRECTIONS else 1.0


def inflected(word: str, other: str) -> bool:
    """Whether two words are forms of one: they begin alike and end in nothing but an inflection."""
    length = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    return length >= MIN_STEM and word[length:] in INFLECTIONS and other[length:] in INFLECTIONS


def veto(asked: str, recorded: str) -> str | None:
    """Why two texts speak of different things, or None."""
    left, right = words_of(asked), words_of(recorded)
    for mine, theirs in ((left, right), (right, left)):
        others = {word.casefold() for word in theirs}
        for word in mine:
            if _names(word) and word.casefold() not in others:
                return f"only one side says {word!r}"
    mine, theirs = _directed(left), _directed(right)
    if any(mine[word] != theirs[word] for word in mine.keys() & theirs.keys()):
        return "a direction differs"
    return None


def _names(word: str) -> bool:
    """Whether a word names a thing or turns the meaning round, so that it must stand on both sides."""
    lower = word.casefold()
    if lower in NEGATIONS or lower in ORDERS or any(character.isdigit() for character in word) or looks_like_identifier(word):
        return True
    return word[:1].isupper() and lower not in OPENERS


def _directed(words: list[str]) -> dict[str, set[str]]:
    """What follows each word of direction."""
    found: dict[str, set[str]] = {}
    for word, following in pairwise(words):
        if word.casefold() in DIRECTIONS:
            found.setdefault(word.casefold(), set()).add(following.casefold())
    return found


@lru_cache(maxsize=65536)
def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text[:MAX_IDENTITY_VALUE]))


def words_of(text: str) -> list[str]:
    """The words of a text; marks inside a word belong to it."""
    return list(_words(text))


def pairs(arguments: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """The (argument path, word) pairs of canonical arguments: what preset `paper` compares."""
    found: set[tuple[str, str]] = set()
    for path, value in leaves(arguments):
        words = words_of(value.casefold()) if isinstance(value, str) else [dump_canonical(value).decode()]
        found.update((path, word) for word in words or [""])
    return frozenset(found)


def jaccard(asked: frozenset[tuple[str, str]], recorded: frozenset[tuple[str, str]]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    union = len(asked | recorded)
    return len(asked & recorded) / union if union else 1.0
