"""A tiny OpenAI-compatible server whose replies a test decides: the one thing of the reward service's world that is not real here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

Reply = Callable[[dict[str, Any], str, int], Response]
"""(the document that is graded, the mark, the number of the call) → the answer."""


def completion(content: str | None, *, tokens: int = 7, finish: str = "stop") -> Response:
    body = {"choices": [{"finish_reason": finish, "message": {"content": content}}], "usage": {"total_tokens": tokens}}
    return Response(orjson.dumps(body), media_type="application/json")


def verdict(mark: str, rating: object) -> Response:
    return completion(orjson.dumps({"verdict": mark, "rating": rating}).decode())


@dataclass
class JudgeServer:
    """What was asked, and what to say."""

    reply: Reply
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            body = orjson.loads(await request.body())
            self.requests.append(body)
            self.authorizations.append(request.headers.get("authorization", ""))
            system, user = body["messages"]
            mark = system["content"].rpartition('{"verdict": "')[2][:8]
            return self.reply(orjson.loads(user["content"]), mark, len(self.requests))

        return app
