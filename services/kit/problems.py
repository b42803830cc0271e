"""Every error leaves a service as `application/problem+json` (RFC 9457).

A CacheRLError gives its own problem; a validation error 422 with a JSON pointer for each fault; a wrong path or method
404 and 405; a database that is away 503; anything else 500 with nothing of its inside. Never does an answer echo what
was sent: it may hold a secret.
"""

from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from psycopg import DataError, OperationalError
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cacherl.errors import PROBLEM_URN, AwayError, CacheRLError, InputError

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 50
CLIENT_CLOSED = 499
SLUGS = {400: "bad-request", 404: "no-such-path", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-media-type"}
TITLES = {
    400: "The request cannot be read",
    404: "There is no such path",
    405: "The path has no such method",
    413: "The body is too large",
    415: "The media type is not supported",
}
QUOTING = {"json_invalid": "not valid JSON", "value_error": "not an allowed value", "assertion_error": "not an allowed value"}
log = structlog.get_logger(__name__)


class ProblemError(BaseModel):
    """One fault of a request."""

    model_config = ConfigDict(extra="allow")

    detail: str
    pointer: str | None = Field(
        default=None, description="JSON pointer into the body, or the parameter's name after `#/query/`, `#/path/` or `#/header/`."
    )
    line: int | None = Field(default=None, description="Line of an NDJSON body, from 1.")


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["urn:cacherl:problem:not-found"])
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    errors: list[ProblemError] | None = None


def problem_response(body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A response that carries a problem object; its status is the object's."""
    return Response(orjson.dumps(body), status_code=body["status"], media_type=MEDIA_TYPE, headers=headers)


def status_problem(status: int, instance: str | None = None, detail: str | None = None) -> dict[str, Any]:
    """The problem of a bare HTTP status."""
    body: dict[str, Any] = {
        "type": PROBLEM_URN + SLUGS.get(status, f"http-{status}"),
        "title": TITLES.get(status, "The request failed"),
        "status": status,
    }
    if detail:
        body["detail"] = detail
    if instance:
        body["instance"] = instance
    return body


def internal_problem(instance: str | None = None) -> dict[str, Any]:
    """The problem of an unexpected error: it says nothing but where to look."""
    return CacheRLError("An unexpected error; the log has it under this request's id.").problem(instance)


def pointer(location: tuple[int | str, ...]) -> str:
    """JSON pointer (RFC 6901) of a pydantic location; the leading `body` is dropped, other places keep theirs."""
    parts = location[1:] if location[:1] == ("body",) else location
    text = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return text if location[:1] == ("body",) else "#" + text


def validation_problem(error: RequestValidationError, instance: str | None = None) -> dict[str, Any]:
    """422 with a pointer and a reason for each fault; neither input nor context is echoed."""
    errors = [{"pointer": pointer(tuple(fault["loc"])), "detail": reason(fault)} for fault in error.errors()[:MAX_ERRORS]]
    return InputError("The request does not fit its schema.", errors=errors).problem(instance)


def reason(fault: dict[str, Any]) -> str:
    """What is wrong, without the value.

    The texts of pydantic pass, but for those that quote. The text of a ValueError may quote anything and does not pass: a validator that
    has something to say raises `PydanticCustomError` with a text of its own that holds no value.
    """
    if fault["type"] == "union_tag_invalid":
        return f"the tag is none of {fault['ctx']['expected_tags']}"
    return QUOTING.get(fault["type"]) or str(fault["msg"])


async def on_known(request: Request, error: Exception) -> Response:
    """A CacheRLError gives its own problem."""
    assert isinstance(error, CacheRLError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {"Retry-After": "1"} if isinstance(error, AwayError) else None
    return problem_response(error.problem(request.url.path), headers)


async def on_invalid(request: Request, error: Exception) -> Response:
    """A request that does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    return problem_response(validation_problem(error, request.url.path))


async def on_status(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: 404, 405, 413, an unreadable body."""
    assert isinstance(error, HTTPException)
    if error.status_code >= 500:
        return problem_response(internal_problem(request.url.path))
    headers = {key: value for key, value in (error.headers or {}).items() if key.lower() in ("allow", "www-authenticate", "retry-after")}
    return problem_response(status_problem(error.status_code, request.url.path), headers)


async def on_database_away(request: Request, error: Exception) -> Response:
    """The database does not answer, or broke off the transaction: the caller may try again."""
    log.warning("database away", action="database_away", error=type(error).__name__)
    away = AwayError("The database does not answer; nothing was done. Try again.", slug="database-away", title="The database is away")
    return problem_response(away.problem(request.url.path), {"Retry-After": "1"})


async def on_no_value(request: Request, error: Exception) -> Response:
    """A value that no column can hold, such as a text with NUL in it or a number beyond 64 bits, that no schema refused before."""
    log.warning("value refused by the database", action="no_value", error=type(error).__name__)
    return problem_response(InputError("The request holds a value that nothing here can have.").problem(request.url.path))


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The caller hung up while it was sending: nobody reads this, the log line has the status."""
    return Response(status_code=CLIENT_CLOSED)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Anything else: 500; the log line is written by the telemetry middleware, which sees the same error."""
    return problem_response(internal_problem(request.url.path))


def install(app: FastAPI) -> None:
    """Registers the handlers."""
    app.add_exception_handler(CacheRLError, on_known)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_status)
    app.add_exception_handler(OperationalError, on_database_away)
    app.add_exception_handler(DataError, on_no_value)
    app.add_exception_handler(PoolTimeout, on_database_away)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_unexpected)


def documented() -> dict[int | str, dict[str, Any]]:
    """`responses=` for OpenAPI: the problems that any operation may answer."""
    texts = {
        401: "No valid credential",
        403: "The key lacks the scope",
        404: "There is no such thing, or not for this caller",
        409: "The request does not fit the present state",
        413: "The body is too large",
        422: "The request does not fit its schema",
        500: "An unexpected error",
        503: "Something that this needs is away",
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content} for status, text in texts.items()}
