"""Fixed phrases of a corpus as single tokens, for a policy that is too small to spend its steps on wording.

Logs of a small world repeat whole sentences around the few words that differ (superword tokens; SuperBPE, arXiv:2503.13423, finds them by
merging). A phrase here is a longest run of words between two values; a value has a digit, or is a capitalised word that begins no sentence.
Values are never part of a phrase, so what has to be copied stays a token of its own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

from tokenizers import Regex, pre_tokenizers

MIN_SHARE = 0.005
"""Of the texts: what occurs less often is no phrase."""
SHORTEST = 3
"""Characters."""


def phrases(chunks_of_texts: Iterable[Sequence[str]], pattern: str, limit: int) -> list[str]:
    """At most `limit` phrases, those that save most tokens. Each text comes as the chunks between tokens that are fixed already."""
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    counted: Counter[tuple[str, ...]] = Counter()
    texts = 0
    for chunks in chunks_of_texts:
        texts += 1
        for chunk in chunks:
            counted.update(_runs([word for word, _ in words.pre_tokenize_str(chunk)]))
    often = max(2, MIN_SHARE * texts)
    saved = {run: count * (len(run) - 1) for run, count in counted.items() if count >= often and len(run) > 1}
    best = sorted(saved, key=lambda run: (-saved[run], run))
    return list(islice((text for text in map("".join, best) if len(text) >= SHORTEST), limit))


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The longest runs of words that are no values."""
    run: list[str] = []
    before = "\n"
    for word, after in pairwise([*words, ""]):
        if _is_value(word, before, after):
            yield tuple(run)
            run = []
        else:
            run.append(word)
        before = word if word.strip(" ") else before
    yield tuple(run)


def _is_value(word: str, before: str, after: str) -> bool:
    """A capitalised word is none where it begins a sentence, which then goes on with a small one."""
    if any(character.isdigit() for character in word):
        return True
    begins = before[-1] in "\n.!?" and after.strip()[:1].islower()
    return word[:1].isupper() and not begins
