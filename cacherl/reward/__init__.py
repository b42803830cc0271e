"""The reward: what an episode was worth, why, and how far to believe it (method §5). Pure; no judge is asked here.

    episode, task ──► matching   which calls are the reference's
                  ──► process    the process terms and their weights
                  ──► trust      ρ and β from the calls' fidelity
                  ──► answers    is there an answer, and does a clamp make it worth 0
    verdict       ──► scoring    R_answer, total, reasons: a `Score`
                      facts      the deterministic judge: are the reference's facts in the answer?

It promises: missing the cache can only lower a `robust` total; no process term reads a tier; a judge without a verdict and a failure of
the infrastructure are never a 0. It must never see a task's `goal`, nor draw a number.
"""

from cacherl.reward.answers import Clamp, has_reference, needs_verdict
from cacherl.reward.facts import FACTS, facts_rating, facts_verdict, facts_vote
from cacherl.reward.matching import Match, keys, match, reached
from cacherl.reward.process import PAPER_WEIGHTS, ROBUST_WEIGHTS, WEIGHTS
from cacherl.reward.scoring import (
    agreement,
    answer_weight,
    broken_invariant,
    checked,
    no_score,
    preset_config,
    process_weight,
    score,
    score_sound,
    unscorable,
)
from cacherl.reward.trust import blame, fidelity, trust

__all__ = [
    "FACTS",
    "PAPER_WEIGHTS",
    "ROBUST_WEIGHTS",
    "WEIGHTS",
    "Clamp",
    "Match",
    "agreement",
    "answer_weight",
    "blame",
    "broken_invariant",
    "checked",
    "facts_rating",
    "facts_verdict",
    "facts_vote",
    "fidelity",
    "has_reference",
    "keys",
    "match",
    "needs_verdict",
    "no_score",
    "preset_config",
    "process_weight",
    "reached",
    "score",
    "score_sound",
    "trust",
    "unscorable",
]
