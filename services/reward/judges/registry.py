"""The judges of a configuration by name. A judge that is not configured does not exist: no request can bring its own."""

import asyncio
from collections.abc import Mapping

from cacherl.errors import InputError
from services.reward.judge import Judge
from services.reward.judges.facts import FactsJudge
from services.reward.judges.llm import LlmJudge
from services.reward.settings import LlmJudgeSettings
from services.reward.verdicts import Verdicts


class Judges:
    """Opened with the service and closed with it."""

    def __init__(self, configured: Mapping[str, LlmJudgeSettings], verdicts: Verdicts) -> None:
        self._judges: dict[str, Judge] = {FactsJudge.name: FactsJudge()}
        self._judges |= {name: LlmJudge(name, settings, verdicts) for name, settings in configured.items()}

    @property
    def names(self) -> list[str]:
        """Sorted."""
        return sorted(self._judges)

    def get(self, name: str) -> Judge:
        """The judge of this name; InputError `unknown-judge` for another."""
        if name not in self._judges:
            raise InputError(f"There is no judge of this name; there are {', '.join(self.names)}.", slug="unknown-judge")
        return self._judges[name]

    async def close(self) -> None:
        """Closes every judge."""
        await asyncio.gather(*(judge.close() for judge in self._judges.values()))
