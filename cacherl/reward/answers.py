"""The final answer: whether there is one, and what makes it worth 0 whatever a judge would say (method §5, [P]).

Two clamps. *Thinking leak*: a think tag stands in the answer's text. *Meta-reasoning*: the answer talks about how to answer instead of
answering. The patterns are few and narrow on purpose: each needs a first-person plan or a remark about "the answer" itself, so polite
phrases ("let me know if …", "I need your order number") pass. They are English; another language needs patterns of its own.
"""

import re
from enum import StrEnum

from cacherl.episode import Episode
from cacherl.trajectory import Task


class Clamp(StrEnum):
    """What sets R_answer to 0."""

    NO_ANSWER = "no_answer"
    """The episode ended without a final answer, or the answer is blank."""
    THINKING_LEAK = "thinking_leak"
    """A think tag stands in the answer."""
    META_REASONING = "meta_reasoning"
    """The answer talks about how to answer."""


THINK_TAG = re.compile(r"</?think(?:ing)?\s*>", re.IGNORECASE)

_VERB = r"(?:answer|respond|reply|formulate|summari[sz]e|craft|compose|write|draft|phrase|present)"
META_PATTERNS: tuple[str, ...] = (
    # A plan for the answer: "I should answer with …", "I need to formulate a response", "I'll now write the final answer".
    rf"\bi(?:'ll| will| should| must| need to| have to| can now|'m going to| am going to)(?: now| just| simply)* {_VERB}\b",
    # A plan in the plural or as an aside: "Let me formulate …", "let's respond …", "we should answer …".
    rf"\b(?:let me|let's|let us|we should|we need to|we must)(?: now| just| simply)* {_VERB}\b",
    # A remark about the answer: "the answer should mention …", "my response must be short".
    r"\b(?:the|my|our|this|a) (?:final |best |short )?(?:answer|response|reply) (?:should|must|needs to|has to|ought to)\b",
    # The user as a third person who is to be answered: "The user wants to know …", "the user is asking …".
    r"\bthe user(?:'s question| is asking| asked| asks| wants(?: me)? to| would like(?: me)? to| expects)\b",
    # Musing about how to put it: "how should I answer", "how to respond to this".
    r"\bhow (?:should i|do i|to|can i) (?:best )?(?:answer|respond|reply|phrase)\b",
)
"""Meta-reasoning, case-insensitive, anywhere in the answer. Each pattern's comment shows what it is for."""
_META = re.compile("|".join(META_PATTERNS), re.IGNORECASE)


def clamps(answer: str | None) -> list[Clamp]:
    """What sets R_answer to 0; empty for an answer that a judge must rate."""
    if answer is None or not answer.strip():
        return [Clamp.NO_ANSWER]
    found = []
    if THINK_TAG.search(answer):
        found.append(Clamp.THINKING_LEAK)
    if _META.search(answer.replace("’", "'")):
        found.append(Clamp.META_REASONING)
    return found


def has_reference(task: Task) -> bool:
    """Whether the task says what a right answer is: an answer's text or facts."""
    return task.reference is not None and (bool((task.reference.answer or "").strip()) or bool(task.reference.facts))


def needs_verdict(episode: Episode, task: Task) -> bool:
    """Whether a judge must be asked: an answer that nothing clamps, and a reference to hold it against."""
    return has_reference(task) and not clamps(episode.answer)
