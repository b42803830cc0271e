"""The errors of CacheRL: one small tree; each type names the boundary that was crossed.

    CacheRLError
    ├── InputError            what the caller gave is wrong: 400/422, exit code 2
    │   ├── UsageError          wrong options
    │   └── DataError           a file or line that cannot be read; carries `line` and `pointer`
    ├── ConflictError         the request does not fit the state of things: 409
    ├── NotFoundError         404
    ├── ForbiddenError        401/403
    ├── GoneError             410
    └── AwayError             something that the work needs is away: 503, exit code 3; retried, never a reward
        ├── ServiceError        one of the four services
        ├── EngineError         the engine
        ├── JudgeError          a judge or teacher endpoint
        └── LiveToolError       a live tool server

Every error has a `slug` (the last part of `urn:cacherl:problem:<slug>`, RFC 9457), a `title` that never changes and a `detail` that says
what happened and what to do. To add one: subclass the boundary, set `slug`, `title` and `status`, and explain it in docs/problems.md.
"""

from typing import Any, ClassVar

PROBLEM_URN = "urn:cacherl:problem:"


class CacheRLError(Exception):
    """The root: something this project knows how to name."""

    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something failed inside CacheRL"
    status: ClassVar[int] = 500

    def __init__(
        self, detail: str, *, errors: list[dict[str, Any]] | None = None, slug: str | None = None, title: str | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.problem_slug = slug or self.slug
        self.problem_title = title or (self.title if slug is None else slug.replace("-", " ").capitalize())

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """The RFC 9457 object of this error."""
        body: dict[str, Any] = {
            "type": PROBLEM_URN + self.problem_slug,
            "title": self.problem_title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance:
            body["instance"] = instance
        if self.errors:
            body["errors"] = self.errors
        return body


class InputError(CacheRLError):
    """What the caller gave is wrong."""

    slug, title, status = "invalid-input", "The request is not valid", 422


class UsageError(InputError):
    """Wrong options on the command line or in a configuration."""

    slug, title = "wrong-usage", "The options do not fit"


class DataError(InputError):
    """A file, line or record that cannot be read."""

    slug, title = "unreadable-data", "A record cannot be read"

    def __init__(self, detail: str, *, line: int | None = None, pointer: str | None = None, slug: str | None = None) -> None:
        error: dict[str, Any] = {"detail": detail}
        if pointer is not None:
            error["pointer"] = pointer
        if line is not None:
            error["line"] = line
        super().__init__(detail, errors=[error], slug=slug)
        self.line = line
        self.pointer = pointer


class ConflictError(CacheRLError):
    """The request does not fit the present state."""

    slug, title, status = "conflict", "The request does not fit the present state", 409


class NotFoundError(CacheRLError):
    """There is no such thing, or not for this caller."""

    slug, title, status = "not-found", "There is no such thing", 404


class UnauthenticatedError(CacheRLError):
    """No key, or one that is not valid."""

    slug, title, status = "unauthenticated", "A valid API key is needed", 401


class ForbiddenError(CacheRLError):
    """The key is valid and may not do this."""

    slug, title, status = "forbidden", "The key lacks the scope", 403


class GoneError(CacheRLError):
    """It was there and its bytes were erased."""

    slug, title, status = "gone", "It was erased", 410


class TooLargeError(InputError):
    """More bytes than the limit."""

    slug, title, status = "too-large", "The body is too large", 413


class AwayError(CacheRLError):
    """Something that the work needs is away; the work waits or fails as infrastructure, it is never scored."""

    slug, title, status = "away", "Something that this needs is away", 503


class ServiceError(AwayError):
    """One of the four services does not answer."""

    slug, title = "service-away", "A service is away"


class EngineError(AwayError):
    """The engine does not answer, or refused."""

    slug, title = "engine-away", "The engine is away"


class JudgeError(AwayError):
    """A judge or teacher endpoint does not answer."""

    slug, title = "judge-away", "The judge is away"


class LiveToolError(AwayError):
    """A live tool server does not answer."""

    slug, title = "live-tool-away", "A live tool server is away"
