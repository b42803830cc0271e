"""The deterministic judge: the share of the reference's facts in the answer (`cacherl.reward.facts`). It abstains where there are none."""

import asyncio
from collections.abc import Sequence

from cacherl.reward import FACTS, facts_vote
from cacherl.score import JudgeVotes
from services.reward.judge import Question


class FactsJudge:
    """Asking it twice gives the same, so it always casts one vote."""

    name = FACTS

    async def rate(self, questions: Sequence[Question], votes: int, tenant: str) -> list[JudgeVotes]:
        """One vote each, none without facts."""
        return await asyncio.to_thread(lambda: [facts_vote(question.answer, question.facts) for question in questions])

    async def close(self) -> None:
        """It holds nothing."""
