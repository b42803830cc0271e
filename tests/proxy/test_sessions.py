"""What an MCP client gets from the proxy, over both transports."""

import asyncio

import pytest
from mcp import Client, MCPError
from mcp_types import INVALID_PARAMS

from tests.proxy.conftest import PAY, READ, Connect, Town, answer, client_of, config, entry, proxying, text


async def test_the_recorded_tools_are_listed_with_their_schemas_and_hints(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"get_weather", "search_notes", "get_balance", "transfer", "library.find", "town_hall_archive.find"}
    weather, transfer, odd = tools["get_weather"], tools["transfer"], tools["town_hall_archive.find"]
    assert weather.input_schema == {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert weather.annotations is not None
    assert (weather.annotations.read_only_hint, weather.annotations.idempotent_hint) == (True, True)
    assert transfer.annotations is not None
    assert transfer.annotations.read_only_hint is False
    assert odd.title == "town hall/archive.find"


async def test_a_hit_is_the_recorded_result_and_says_where_it_is_from(connect: Connect) -> None:
    async with connect() as client:
        found = await client.call_tool("get_weather", {"city": "Bonn"})
    assert not found.is_error
    assert text(found) == "clear"
    assert found.structured_content is None
    said = answer(found)
    assert (said["outcome"], said["tier"], said["live"], said["similarity"]) == ("exact", "exact", False, 1.0)
    assert (said["entry"]["source"], said["entry"]["step"]) == ("t1", 0)
    assert said["agreement"] == {"scenario": True, "state": True, "schema": True}
    assert "fidelity" in said
    assert said["revision"] == 1


async def test_a_result_that_is_an_object_is_given_as_one_too(connect: Connect) -> None:
    async with connect() as client:
        found = await client.call_tool("get_weather", {"city": "Rome"})
    assert text(found) == '{"sky": "clear", "degrees": 21}'
    assert found.structured_content == {"sky": "clear", "degrees": 21}


async def test_what_was_recorded_from_an_mcp_server_comes_out_as_it_went_in(town: Town) -> None:
    blocks = [{"type": "text", "text": "here"}, {"type": "image", "data": "aGk=", "mimeType": "image/png"}]
    await town.cache.record(entry("m1", "search_notes", {"query": "map"}, blocks))
    await town.cache.record(entry("m2", "search_notes", {"query": "list"}, [{"type": "odd"}]))
    async with proxying(town) as url, client_of(url) as client:
        found = await client.call_tool("search_notes", {"query": "map"})
        assert [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in found.content] == blocks
        assert text(await client.call_tool("search_notes", {"query": "list"})) == '[{"type": "odd"}]'


async def test_a_miss_is_an_error_for_the_agent_to_read(connect: Connect) -> None:
    async with connect() as client:
        found = await client.call_tool("get_weather", {"city": "Ulm"})
    assert found.is_error
    assert text(found).startswith("[no recorded result] get_weather:")
    assert (answer(found)["outcome"], answer(found)["entry"]) == ("miss", None)


async def test_a_recorded_error_is_an_error(connect: Connect) -> None:
    async with connect() as client:
        found = await client.call_tool("search_notes", {"query": "x"})
    assert found.is_error
    assert "no such note" in text(found)
    assert answer(found)["outcome"] == "exact"


async def test_the_state_is_chained_through_a_session(connect: Connect) -> None:
    async with connect() as client:
        before = await client.call_tool(*READ)
        paid = await client.call_tool(*PAY)
        after = await client.call_tool(*READ)
    assert [text(before), text(paid), text(after)] == ["100", "done", "70"]


async def test_a_read_after_a_write_that_was_not_recorded_is_a_miss(connect: Connect) -> None:
    async with connect() as client:
        missed = await client.call_tool("transfer", {"account": "A1", "amount": 31})
        after = await client.call_tool(*READ)
        elsewhere = await client.call_tool("get_weather", {"city": "Bonn"})
    assert missed.is_error
    assert after.is_error
    assert "not known" in text(after)
    assert not elsewhere.is_error


async def test_names_that_clients_cannot_take_lead_back_to_their_tools(connect: Connect) -> None:
    async with connect() as client:
        assert text(await client.call_tool("town_hall_archive.find", {"query": "deed"})) == "folio 7"
        assert text(await client.call_tool("library.find", {"title": "Emma"})) == "shelf 3"
    async with connect(names="plain") as client:
        assert "library_find" in {tool.name for tool in (await client.list_tools()).tools}
        assert text(await client.call_tool("library_find", {"title": "Emma"})) == "shelf 3"


async def test_calls_of_one_session_are_answered_in_the_order_they_came(connect: Connect) -> None:
    async with connect() as client:
        found = await asyncio.gather(client.call_tool(*READ), client.call_tool(*PAY), client.call_tool(*READ))
    assert [text(one) for one in found] == ["100", "done", "70"]


async def test_a_tool_that_is_not_there_is_told_so_and_changes_nothing(connect: Connect) -> None:
    async with connect() as client:
        found = await client.call_tool("fly", {})
        assert text(await client.call_tool(*READ)) == "100"
    assert found.is_error
    assert text(found).startswith("There is no tool fly. Available tools: get_balance, get_weather")
    assert answer(found)["outcome"] == "unknown_tool"
    assert answer(found)["tier"] is None


async def test_arguments_that_do_not_fit_the_schema_are_told_why(connect: Connect) -> None:
    async with connect() as client:
        found = await client.call_tool("get_weather", {"town": "Bonn"})
    assert found.is_error
    assert "do not fit" in text(found)


async def test_a_session_without_a_scenario_is_told_how_to_name_one(connect: Connect) -> None:
    async with connect(scenario=None) as client:
        with pytest.raises(MCPError, match="--scenario") as refused:
            await client.call_tool("get_weather", {"city": "Bonn"})
        assert refused.value.code == INVALID_PARAMS
        assert refused.value.data["type"].endswith(":scenario-needed")
        named = await client.call_tool("get_weather", {"city": "Bonn"}, meta={"cacherl/episode": {"scenario": "s2"}})
        assert text(named) == "rain"
        assert text(await client.call_tool("get_weather", {"city": "Bonn"})) == "rain"
        with pytest.raises(MCPError, match="its scenario is 's2'"):
            await client.call_tool("get_weather", {"city": "Bonn"}, meta={"cacherl/episode": {"scenario": "s1"}})


async def test_what_is_said_of_an_episode_is_checked(connect: Connect) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="scenarioo"):
            await client.call_tool("get_weather", {"city": "Bonn"}, meta={"cacherl/episode": {"scenarioo": "s2"}})


async def test_a_listing_has_one_page(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.list_tools()).next_cursor is None
        with pytest.raises(MCPError, match="first page"):
            await client.list_tools(cursor="2")


async def _balance_story(client: Client) -> list[str]:
    return [text(await client.call_tool(*call)) for call in (READ, PAY, READ)]


async def test_two_sessions_know_nothing_of_each_other(town: Town) -> None:
    async with proxying(town) as url, client_of(url) as one, client_of(url) as other:
        assert text(await one.call_tool(*PAY)) == "done"
        assert text(await other.call_tool(*READ)) == "100"
        assert text(await one.call_tool(*READ)) == "70"


async def test_many_sessions_at_once(town: Town) -> None:
    async def session(url: str) -> list[str]:
        async with client_of(url) as client:
            return await _balance_story(client)

    async with proxying(town) as url:
        stories = await asyncio.gather(*(session(url) for _ in range(16)))
    assert stories == [["100", "done", "70"]] * 16


async def test_a_session_sees_the_revision_it_began_with(town: Town) -> None:
    async with proxying(town) as url, client_of(url) as client:
        await client.list_tools()
        await town.cache.record(entry("t9", "get_weather", {"city": "Ulm"}, "fog"))
        missed = await client.call_tool("get_weather", {"city": "Ulm"})
        assert answer(missed)["outcome"] == "miss"
    async with proxying(town) as url, client_of(url) as client:
        assert text(await client.call_tool("get_weather", {"city": "Ulm"})) == "fog"
    async with proxying(town, config(revision=1)) as url, client_of(url) as client:
        assert (await client.call_tool("get_weather", {"city": "Ulm"})).is_error


async def test_the_preset_and_an_explanation_are_passed_on(town: Town) -> None:
    async with proxying(town, config(preset="paper", episode={})) as url, client_of(url) as client:
        found = answer(await client.call_tool(*READ))
        assert (found["outcome"], found["agreement"]) == ("exact", None)
    async with proxying(town, config(explain=True)) as url, client_of(url) as client:
        assert "gates" in answer(await client.call_tool("get_weather", {"city": "Ulm"}))["explain"]


async def test_a_mode_that_the_cache_has_no_server_for_is_refused_in_its_words(town: Town) -> None:
    async with proxying(town, config(mode="record")) as url, client_of(url) as client:
        with pytest.raises(MCPError, match="live server") as refused:
            await client.call_tool("get_weather", {"city": "Bonn"})
    assert refused.value.data["type"].endswith(":no-live-server")


async def test_sources_can_be_kept_out(town: Town) -> None:
    async with proxying(town, config(episode={"scenario": "s1", "exclude_sources": ["t1"]})) as url, client_of(url) as client:
        assert (await client.call_tool("get_weather", {"city": "Bonn"})).is_error
