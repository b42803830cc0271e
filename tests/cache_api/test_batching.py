"""`CacheClient.lookup`: concurrent callers share requests, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import httpx2
import pytest

from cacherl.api.cache import LookupAnswer, LookupCall, LookupItem, LookupRequest
from cacherl.client import CacheClient
from cacherl.client.batching import IN_FLIGHT, NOTHING_PINNED, BatchedLookups, LookupPins
from cacherl.errors import ConflictError, ForbiddenError, InputError, NotFoundError, ServiceError
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from tests.cache_api.conftest import Cache, trajectory

CITIES = [f"city {number}" for number in range(40)]


def weather(city: str, *, scenario: str = "s1", state: str | None = None) -> LookupItem:
    return LookupItem(calls=[LookupCall(name="get_weather", arguments={"city": city})], scenario=scenario, state=state)


def said(answer: LookupAnswer) -> object:
    (item,) = answer.items
    return item.results[0].result.content


class Counted(CacheClient):
    """Notes how many items each request had, and how many were under way at once."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key)
        self.sizes: list[int] = []
        self.most_at_once = self._now = 0

    async def lookups(self, cache: str, request: LookupRequest) -> LookupAnswer:
        self.sizes.append(len(request.items))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await super().lookups(cache, request)
        finally:
            self._now -= 1


@pytest.fixture
async def client(
    cache_settings: CacheSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]
) -> AsyncIterator[Counted]:
    key = api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE))
    http = await serve(create(cache_settings), key)
    assert (await http.post("/v1/caches", json={"name": "town"})).status_code == 201
    await Cache(http, "town").record(trajectory("t", [("get_weather", {"city": city}, f"sun in {city}") for city in CITIES]))
    async with Counted(str(http.base_url), key) as client:
        yield client


async def test_concurrent_callers_share_one_request_and_get_their_own_answers(client: Counted) -> None:
    answers = await asyncio.gather(*(client.lookup("town", weather(city)) for city in CITIES))
    assert [said(answer) for answer in answers] == [f"sun in {city}" for city in CITIES]
    assert client.sizes == [len(CITIES)]
    assert {answer.revision for answer in answers} == {1}


async def test_a_caller_alone_asks_at_once(client: Counted) -> None:
    assert said(await client.lookup("town", weather("city 1"))) == "sun in city 1"
    assert said(await client.lookup("town", weather("city 2"))) == "sun in city 2"
    assert client.sizes == [1, 1]


async def test_what_is_asked_while_requests_are_under_way_goes_together(client: Counted) -> None:
    async def later(number: int) -> object:
        for _ in range(number):
            await asyncio.sleep(0)
        return said(await client.lookup("town", weather(CITIES[number])))

    assert await asyncio.gather(*map(later, range(len(CITIES)))) == [f"sun in {city}" for city in CITIES]
    assert client.most_at_once <= IN_FLIGHT
    assert len(client.sizes) < len(CITIES) / 2


async def test_other_pins_are_another_request(client: Counted) -> None:
    pins = [LookupPins(), LookupPins(revision=1), LookupPins(preset="paper"), LookupPins(as_of=datetime.now(UTC))]
    answers = await asyncio.gather(*(client.lookup("town", weather(city), pin) for pin in pins for city in CITIES[:3]))
    assert sorted(client.sizes) == [3, 3, 3, 3]
    assert [answer.items[0].results[0].agreement is None for answer in answers] == [False] * 6 + [True] * 3 + [False] * 3


async def test_a_bad_item_is_refused_alone(client: Counted) -> None:
    items = [weather(city) for city in CITIES]
    items[7] = weather("city 7", state="not a state")
    items[20] = weather("city 20", state="nor this")
    answers = await asyncio.gather(*(client.lookup("town", item) for item in items), return_exceptions=True)
    refused = [number for number, answer in enumerate(answers) if isinstance(answer, InputError)]
    assert refused == [7, 20]
    assert [said(a) for a in answers if isinstance(a, LookupAnswer)] == [f"sun in {c}" for n, c in enumerate(CITIES) if n not in refused]
    assert len(client.sizes) < len(CITIES), "the good ones are not asked one by one"


async def test_a_refusal_of_the_request_as_a_whole_is_everybodys_at_once(client: Counted) -> None:
    answers = await asyncio.gather(*(client.lookup("nowhere", weather(city)) for city in CITIES), return_exceptions=True)
    assert all(isinstance(answer, NotFoundError) for answer in answers)
    assert client.sizes == [len(CITIES)]


async def test_who_gives_up_leaves_the_others(client: Counted) -> None:
    tasks = [asyncio.create_task(client.lookup("town", weather(city))) for city in CITIES]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.sleep(0.002)
    tasks[5].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [n for n, answer in enumerate(done) if isinstance(answer, asyncio.CancelledError)] == [3, 5]
    assert all(said(answer) == f"sun in {CITIES[n]}" for n, answer in enumerate(done) if isinstance(answer, LookupAnswer))


async def test_calls_of_an_episode_chain_their_state_through_shared_requests(client: Counted) -> None:
    async def episode(number: int) -> list[object]:
        state, heard = None, []
        for step in range(4):
            answer = await client.lookup("town", weather(CITIES[number + step], state=state))
            state = answer.items[0].state
            heard.append(said(answer))
        return heard

    heard = await asyncio.gather(*map(episode, range(20)))
    assert heard == [[f"sun in {CITIES[n + step]}" for step in range(4)] for n in range(20)]
    assert sum(client.sizes) == 80
    assert len(client.sizes) <= 16


async def test_the_service_being_away_is_everybodys(client: Counted) -> None:
    client.http.attempts = 1
    away = CacheClient("http://127.0.0.1:9", "key")
    away.http.attempts = 1
    answers = await asyncio.gather(*(away.lookup("town", weather(city)) for city in CITIES), return_exceptions=True)
    await away.close()
    assert all(isinstance(answer, ServiceError) for answer in answers)


async def test_a_closed_client_leaves_nobody_waiting(client: Counted) -> None:
    tasks = [asyncio.create_task(client.lookup("town", weather(city))) for city in CITIES]
    await asyncio.sleep(0)
    await client.close()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in done)


class Recorded:
    """A service that notes requests and refuses what a test tells it to."""

    def __init__(self, refuse: Callable[[LookupRequest], Exception | None]) -> None:
        self.asked: list[list[str]] = []
        self._refuse = refuse

    async def __call__(self, cache: str, request: LookupRequest) -> LookupAnswer:
        self.asked.append([item.scenario for item in request.items])
        await asyncio.sleep(0)
        if (error := self._refuse(request)) is not None:
            raise error
        items = [{"state": item.scenario, "results": [{"outcome": "miss", "result": {"content": item.scenario}}]} for item in request.items]
        return LookupAnswer.model_validate({"revision": 1, "view": "v", "as_of": datetime.now(UTC), "items": items})


async def _ask(service: Recorded, names: str, pins: LookupPins = NOTHING_PINNED) -> list[object]:
    batched = BatchedLookups(service)
    found = await asyncio.gather(*(batched.lookup("c", weather("x", scenario=n), pins) for n in names), return_exceptions=True)
    return [answer.items[0].state if isinstance(answer, LookupAnswer) else answer for answer in found]


async def test_a_refusal_that_names_its_items_ends_those_and_asks_the_rest_once_more() -> None:
    def refuse(request: LookupRequest) -> Exception | None:
        bad = [n for n, item in enumerate(request.items) if item.scenario in "ce"]
        errors = [{"pointer": f"/items/{n}/calls/0", "detail": "bad"} for n in bad]
        return InputError("bad items", errors=errors) if bad else None

    service = Recorded(refuse)
    answers = await _ask(service, "abcdef")
    assert [a for a in answers if isinstance(a, str)] == ["a", "b", "d", "f"]
    assert [e.errors for e in answers if isinstance(e, InputError)] == [[{"pointer": "/items/0/calls/0", "detail": "bad"}]] * 2
    assert service.asked == [list("abcdef"), list("abdf")]


async def test_a_refusal_that_names_nobody_is_looked_for_by_halves() -> None:
    service = Recorded(lambda request: ConflictError("of another view") if any(i.scenario == "c" for i in request.items) else None)
    answers = await _ask(service, "abcdefgh")
    assert [isinstance(a, ConflictError) for a in answers] == [name == "c" for name in "abcdefgh"]
    assert len(service.asked) == 7


async def test_a_key_that_may_not_is_asked_once() -> None:
    service = Recorded(lambda request: ForbiddenError("no"))
    assert all(isinstance(a, ForbiddenError) for a in await _ask(service, "abcdef"))
    assert len(service.asked) == 1


async def test_live_calls_share_no_request_and_are_never_asked_twice() -> None:
    service = Recorded(lambda request: ConflictError("no") if request.items[0].scenario == "b" else None)
    answers = await _ask(service, "abc", LookupPins(mode="record", run="r"))
    assert [isinstance(a, ConflictError) for a in answers] == [False, True, False]
    assert sorted(service.asked) == [["a"], ["b"], ["c"]]


async def test_the_pins_of_many_runs_do_not_pile_up() -> None:
    service = Recorded(lambda request: None)
    batched = BatchedLookups(service)
    for revision in range(300):
        await batched.lookup("c", weather("x"), LookupPins(revision=revision))
    assert len(batched._groups) <= 100


def test_the_pins_are_the_request_without_its_items() -> None:
    assert set(LookupPins.model_fields) == set(LookupRequest.model_fields) - {"items"}
    for name, field in LookupPins.model_fields.items():
        assert field.default == LookupRequest.model_fields[name].default
