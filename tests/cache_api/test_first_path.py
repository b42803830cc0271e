from tests.cache_api.conftest import Cache, call, item, trajectory


async def test_what_was_recorded_is_answered_exactly_and_anything_else_is_a_miss(cache: Cache):
    done = await cache.record(trajectory("run-1", [("get_weather", {"city": "San Jose"}, {"sky": "clear"})]), batch="b1")
    assert done == {
        "batch": "b1", "read": 1, "stored": 1, "duplicate": 0, "conflicting": 0, "refused": [], "refused_total": 0, "revision": 1,
    }  # fmt: skip

    found = await cache.one("get_weather", {"city": " San Jose "})
    assert found["outcome"] == "exact"
    assert found["result"] == {"content": '{"sky":"clear"}', "is_error": False}
    assert (found["similarity"], found["fidelity"]) == (1.0, None)
    assert found["entry"]["source"] == "run-1"
    assert found["agreement"] == {"scenario": True, "state": True, "schema": True}

    missed = await cache.one("get_weather", {"city": "San Francisco"})
    assert (missed["outcome"], missed["entry"], missed["result"]["is_error"]) == ("miss", None, True)
    assert "no recorded result" in missed["result"]["content"]


async def test_a_read_after_a_write_never_sees_what_was_recorded_before_the_write(cache: Cache):
    await cache.record(
        trajectory("run-1", [("get_balance", {"account": "A1"}, "100")]),
        trajectory("run-2", [("transfer", {"account": "A1", "amount": 30}, "done"), ("get_balance", {"account": "A1"}, "70")]),
    )
    read = call("get_balance", {"account": "A1"})
    write = call("transfer", {"account": "A1", "amount": 30})
    before, wrote, after = await cache.results(item(read, write, read))
    assert [r["outcome"] for r in (before, wrote, after)] == ["exact", "exact", "exact"]
    assert (before["result"]["content"], after["result"]["content"]) == ("100", "70")

    other = call("transfer", {"account": "A1", "amount": 55})
    missed, unknown = await cache.results(item(other, read))
    assert (missed["outcome"], unknown["outcome"]) == ("miss", "miss")


async def test_the_state_goes_through_the_token_as_through_the_history(cache: Cache):
    await cache.record(
        trajectory("run-2", [("transfer", {"account": "A1", "amount": 30}, "done"), ("get_balance", {"account": "A1"}, "70")])
    )
    first = await cache.look(item(call("transfer", {"account": "A1", "amount": 30})))
    read = call("get_balance", {"account": "A1"})
    by_token = await cache.look(item(read, state=first["items"][0]["state"]))
    past = {
        "call": call("transfer", {"account": "A1", "amount": 30}),
        "outcome": "exact",
        "result": first["items"][0]["results"][0]["result"],
    }
    by_history = await cache.look(item(read, history=[past]))
    assert by_token["items"] == by_history["items"]
    assert by_token["items"][0]["results"][0]["result"]["content"] == "70"
