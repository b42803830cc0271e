"""Rollouts that may call live tools, with the real cache service and a live tool server behind them."""

from typing import Any

from cacherl.api.cache import CacheCreate
from cacherl.api.rollout import PolicyPublish
from cacherl.client import CacheClient, RolloutClient
from cacherl.rendering import Renderer
from cacherl.testing import ScriptedEngine, call_text, task
from cacherl.tool_spec import ToolSpec
from services.cache_api.app import create as create_cache_api
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings
from services.rollout.app import create
from services.rollout.settings import RolloutSettings
from tests.cache_api.bank import Bank, http_app
from tests.cache_api.conftest import TOOLS
from tests.rollout.conftest import ANSWER, SHA, wanted


async def test_siblings_of_a_group_make_their_first_call_once_and_stay_within_the_budget(
    rollout_settings: RolloutSettings, settings: ServiceSettings, renderer: Renderer, serve: Any, api_key: Any
):
    key, bank = api_key(), Bank()
    world = str((await serve(http_app(bank))).base_url)
    cache_http = await serve(create_cache_api(CacheSettings.model_validate(settings.model_dump() | {"live_servers": {"bank": world}})), key)
    look, pay = call_text("get_balance", {"account": "A1"}), call_text("transfer", {"account": "A1", "amount": 30})
    engine = ScriptedEngine(renderer, [look, pay, look, ANSWER], policies=[])
    here = rollout_settings.model_copy(update={"cache_api_url": str(cache_http.base_url)})
    rollout_http = await serve(create(here, open_engine=lambda _: engine), key)
    tools = [ToolSpec.model_validate(one) for one in TOOLS]
    async with CacheClient(str(cache_http.base_url), key) as caches, RolloutClient(str(rollout_http.base_url), key) as sdk:
        await caches.create(CacheCreate.model_validate({"name": "bank", "tools": TOOLS, "settings": {"live_server": "bank"}}))
        await sdk.publish(PolicyPublish(name="tiny", version=0, path="tiny/0", sha256=SHA))
        asked = wanted(cache="bank", tasks=[task(tools=tools)], group_size=4, mode="fallthrough")
        episodes = [episode async for episode in sdk.episodes((await sdk.create(asked)).id)]
        assert [[call.result.content for call in episode.calls] for episode in episodes] == [["100", "done, receipt R7000", "70"]] * 4
        assert sum(episode.calls[0].live for episode in episodes) == 1
        made = len(bank.made)
        assert made <= 1 + 4 + 4

        # Nothing live is left to spend: what the first rollout recorded is served, and the rest says why not.
        spent = wanted(cache="bank", revision=0, tasks=[task(tools=tools)], group_size=2, mode="fallthrough", budget=2)
        episodes = [episode async for episode in sdk.episodes((await sdk.create(spent)).id)]
        assert sum(call.live for episode in episodes for call in episode.calls) == 2
        assert len(bank.made) == made + 2
        missed = [call for episode in episodes for call in episode.calls if str(call.outcome) == "miss"]
        assert missed
        assert all("[no recorded result]" in str(call.result.content) for call in missed)
