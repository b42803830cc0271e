"""A judge behind any OpenAI-compatible endpoint that the configuration names.

A vote is looked up before it is asked for, and kept as soon as it is there, so work that breaks off is not lost. A reply without a verdict
counts as no vote; with half of the votes missing or more the judge abstains. An endpoint that does not answer, refuses the key or keeps
saying "later" is *away*: JudgeError, the request fails as a whole, and nothing is scored.
"""

import asyncio
import secrets
from collections.abc import Iterator, Sequence

import httpx2
import orjson
import stamina
import structlog
from prometheus_client import Counter

from cacherl.errors import JudgeError
from cacherl.score import JudgeVotes
from services.reward.judge import Question
from services.reward.judges import prompt
from services.reward.judges.pace import Pace
from services.reward.settings import LlmJudgeSettings
from services.reward.verdicts import Verdicts

LATER = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
REFUSED_QUESTION = frozenset({400, 413, 422})
"""The endpoint will not rate this one (too long, filtered): no vote."""
MAX_RETRY_AFTER_S = 60.0
CALLS = Counter("cacherl_judge_votes_total", "Votes by where they came from: asked, kept, none (no verdict).", ["judge", "source"])
TOKENS = Counter("cacherl_judge_tokens_total", "Tokens that judges used.", ["judge"])
log = structlog.get_logger(__name__)
Place = tuple[int, int]
"""(question, vote)."""


class BusyJudgeError(JudgeError):
    """The endpoint said "later"; `after_s` where it said when."""

    def __init__(self, detail: str, after_s: float | None = None) -> None:
        super().__init__(detail)
        self.after_s = after_s


class LlmJudge:
    """Asks, reads strictly, keeps. One per judge of the configuration and process."""

    def __init__(self, name: str, settings: LlmJudgeSettings, verdicts: Verdicts) -> None:
        self.name = name
        self._settings = settings
        self._verdicts = verdicts
        self._pace = Pace(concurrency=settings.concurrency, per_minute=settings.requests_per_minute)
        headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
        self._url = str(settings.url).rstrip("/") + "/chat/completions"
        self._client = httpx2.AsyncClient(headers=headers, timeout=settings.timeout_s, follow_redirects=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def rate(self, questions: Sequence[Question], votes: int, tenant: str) -> list[JudgeVotes]:
        """Up to `votes` votes a question; equal questions are asked once."""
        places = {(i, vote): self._key(each, vote) for i, each in enumerate(questions) for vote in range(votes)}
        known = await self._verdicts.find(tenant, sorted(set(places.values())))
        CALLS.labels(self.name, "kept").inc(sum(key in known for key in places.values()))
        asked = {key: questions[i] for (i, _), key in places.items() if key not in known}
        fresh = await self._ask_all(asked, tenant)
        return list(self._votes(len(questions), votes, places, known, fresh))

    def _key(self, question: Question, vote: int) -> bytes:
        return prompt.key(question, judge=self.name, model=self._settings.model, vote=vote)

    async def _ask_all(self, asked: dict[bytes, Question], tenant: str) -> dict[bytes, tuple[int | None, int]]:
        """(rating, tokens) by key. Where the judge is away the others are still kept before JudgeError is raised."""
        answers = await asyncio.gather(*(self._ask_and_keep(key, each, tenant) for key, each in asked.items()), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return dict(zip(asked, (answer for answer in answers if not isinstance(answer, BaseException)), strict=True))

    def _votes(
        self, size: int, votes: int, places: dict[Place, bytes], known: dict[bytes, int], fresh: dict[bytes, tuple[int | None, int]]
    ) -> Iterator[JudgeVotes]:
        paid: set[bytes] = set()
        for index in range(size):
            keys = [places[index, vote] for vote in range(votes)]
            cast = [known[key] if key in known else fresh[key][0] for key in keys]
            given = [vote for vote in cast if vote is not None]
            tokens = sum(fresh[key][1] for key in keys if key in fresh and key not in paid)
            paid.update(keys)
            yield JudgeVotes(name=self.name, votes=given if 2 * len(given) > votes else [], tokens=tokens)

    async def _ask_and_keep(self, key: bytes, question: Question, tenant: str) -> tuple[int | None, int]:
        rating, tokens = await self._ask(question)
        CALLS.labels(self.name, "none" if rating is None else "asked").inc()
        TOKENS.labels(self.name).inc(tokens)
        if rating is not None:
            rating = await self._verdicts.keep(tenant, key, judge=self.name, model=self._settings.model, rating=rating, tokens=tokens)
        return rating, tokens

    async def _ask(self, question: Question) -> tuple[int | None, int]:
        """One vote, asked again while the endpoint says "later", within the judge's patience."""
        mark = secrets.token_hex(4)
        body = orjson.dumps(
            {"model": self._settings.model, "messages": prompt.messages(question, mark), "max_tokens": self._settings.max_tokens}
        )
        retries = stamina.retry_context(_wait, attempts=self._settings.attempts, timeout=self._settings.patience_s, wait_initial=0.2)
        async for attempt in retries:
            with attempt:
                async with self._pace.turn():
                    return self._read(await self._post(body), mark)
        raise AssertionError("the retry context ends by a return or an error")

    async def _post(self, body: bytes) -> httpx2.Response:
        try:
            response = await self._client.post(self._url, content=body, headers={"Content-Type": "application/json"})
        except httpx2.TransportError as error:
            raise BusyJudgeError(f"The judge `{self.name}` does not answer ({type(error).__name__}).") from error
        if response.status_code in LATER:
            after_s = _retry_after(response.headers.get("retry-after"))
            if after_s is not None:
                self._pace.pause(after_s)
            raise BusyJudgeError(f"The judge `{self.name}` answered {response.status_code}.", after_s)
        if response.status_code != 200 and response.status_code not in REFUSED_QUESTION:
            raise JudgeError(f"The judge `{self.name}` answered {response.status_code}: look at its configuration.")
        return response

    def _read(self, response: httpx2.Response, mark: str) -> tuple[int | None, int]:
        """(rating, tokens) of an answer; None for one that holds no verdict, whatever else it holds."""
        if response.status_code in REFUSED_QUESTION:
            log.warning("judge refused a question", action="judge_refused", judge=self.name, status=response.status_code)
            return None, 0
        try:
            answer = orjson.loads(response.content)
            choice = answer["choices"][0]
            finished, reply = choice.get("finish_reason"), choice["message"]["content"]
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return None, 0
        usage = answer.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, dict) else None
        tokens = used if type(used) is int and 0 <= used < 2**31 else 0
        complete = finished in ("stop", None) and isinstance(reply, str)
        return (prompt.rating(reply, mark) if complete else None), tokens


def _wait(error: Exception) -> bool | float:
    """Whether to ask again, and after how many seconds where the endpoint said so."""
    if not isinstance(error, BusyJudgeError):
        return False
    return error.after_s if error.after_s is not None else True


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header; a date or nonsense is none."""
    try:
        return min(MAX_RETRY_AFTER_S, max(0.0, float(value))) if value is not None else None
    except ValueError:
        return None
