"""The reward API's client."""

from cacherl.api.reward import AdvantageAnswer, AdvantageRequest, Presets, ScoreAnswer, ScoreRequest
from cacherl.client.service import ServiceClient
from cacherl.errors import ServiceError


class RewardClient(ServiceClient):
    """Speaks to the reward API: `async with RewardClient(url, key) as reward: …`."""

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Scores episodes. Whoever answers steers the policy: the reply must name the episodes and configuration that were asked for."""
        answer = await self.http.post("/v1/scores", request, ScoreAnswer, acts=False)
        asked = [episode.id for episode in request.episodes] + request.episode_ids
        if [score.episode_id for score in answer.scores] != asked:
            raise ServiceError("the reward service answered for other episodes than were asked for")
        if answer.config_hash != request.resolved.config_hash:
            raise ServiceError("the reward service scored under another configuration than was asked for")
        return answer

    async def advantages(self, request: AdvantageRequest) -> AdvantageAnswer:
        """Turns groups of scores into advantages."""
        return await self.http.post("/v1/advantages", request, AdvantageAnswer, acts=False)

    async def presets(self) -> Presets:
        """The named configurations."""
        return await self.http.get("/v1/presets", Presets)
