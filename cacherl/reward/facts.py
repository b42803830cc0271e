"""The deterministic judge: which of the reference's facts the answer states (method §5; the embedded default).

A fact is there where the tokens of its value, or of an alias, stand in the answer one after another as *whole* tokens, without regard to
letter case: `12` is not in `12.5`, `A17` not in `A175`, `-5` is not `5`. A token is a run of letters and digits with inner joiners
(`ord_7-f3`, `a.b@c.de`, `2024-05-01`, `10:30`, `it's`); the possessive 's is cut off. Numbers are compared by value: `1,200.50` is
`1200.5`, but `007` is a name.
Known limit: an answer that lists every value it has seen names the right one among them.
"""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

from cacherl.episode import Episode
from cacherl.reward.answers import needs_verdict
from cacherl.score import JudgeVotes
from cacherl.trajectory import Fact, Task

FACTS = "facts"
"""This judge's name."""
_TOKEN = re.compile(r"(?:(?<![\w.])-(?=\d))?[^\W_]+(?:(?:['./@_+\-]|(?<=\d)[:,](?=\d))[^\W_]+)*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?|-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def tokens(text: str) -> list[str]:
    """The whole tokens of a text, case-folded; numbers in one spelling."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("−", "-").replace("’", "'")
    return [_token(found) for found in _TOKEN.findall(folded)]


def _token(token: str) -> str:
    token = token.removesuffix("'s")
    if _NUMBER.fullmatch(token) and len(token) <= 32:
        number = Decimal(token.replace(",", "")).normalize()
        return f"{number:f}" if number else "0"
    return token


@lru_cache(maxsize=8192)
def _wanted(text: str) -> tuple[str, ...]:
    return tuple(tokens(text))


def stated(fact: Fact, answer_tokens: Sequence[str]) -> bool:
    """Whether the fact's value, or one of its aliases, stands in the answer."""
    return any(_contains(answer_tokens, _wanted(text)) for text in (fact.value, *fact.aliases))


def _contains(haystack: Sequence[str], needle: tuple[str, ...]) -> bool:
    if not needle:
        return False
    first, size = needle[0], len(needle)
    return any(found == first and tuple(haystack[at : at + size]) == needle for at, found in enumerate(haystack))


def facts_rating(answer: str, facts: Sequence[Fact] | None) -> int | None:
    """0–5: five times the share of the facts in the answer, rounded down, so that 5 means all. None (no verdict) without facts."""
    if not facts:
        return None
    answer_tokens = tokens(answer)
    found = sum(stated(fact, answer_tokens) for fact in facts)
    return 5 * found // len(facts)


def facts_vote(answer: str, facts: Sequence[Fact] | None) -> JudgeVotes:
    """This judge's one vote on an answer, none without facts."""
    rating = facts_rating(answer, facts)
    return JudgeVotes(name=FACTS, votes=[] if rating is None else [rating])


def facts_verdict(episode: Episode, task: Task | None) -> JudgeVotes | None:
    """This judge's verdict on an episode; None where none is needed."""
    if task is None or task.reference is None or not needs_verdict(episode, task):
        return None
    return facts_vote(episode.answer or "", task.reference.facts)
