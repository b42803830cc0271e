"""What a service tells about itself: one log line and one measurement for each request.

Log lines name method, route, status, milliseconds, tenant, key and trace: never a body, a query string or a header.
Metrics are labelled by route template, never by URL, so their number is bounded. The middleware stands outermost: it
sees every answer, gives each an `X-Request-ID`, turns an error that nobody handled into a 500 problem, and a bare 413
of the body limit into a problem.
"""

import logging
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.kit import trace
from services.kit.problems import CLIENT_CLOSED, MEDIA_TYPE, internal_problem, problem_response, status_problem
from services.kit.settings import LogFormat

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
REQUESTS = Counter("cacherl_http_requests_total", "Requests answered.", ["service", "method", "route", "status"])
SECONDS = Histogram(
    "cacherl_http_request_seconds",
    "Time to the end of the answer.",
    ["service", "method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
RUNNING = Gauge("cacherl_http_requests_running", "Requests in progress.", ["service"])
log = structlog.get_logger("cacherl.http")


def add_trace(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Puts trace and request ids on every log line of a request."""
    context = trace.current()
    if context is not None:
        event.setdefault("trace_id", context.trace_id)
        event.setdefault("request_id", context.request_id)
    return event


def configure_logging(*, level: str, form: LogFormat) -> None:
    """Sends structlog's and the standard library's lines to standard error in one form; call it once in a process."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace,
    ]
    last: list[structlog.types.Processor] = (
        # The default would print the local variables of every frame, secrets among them.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if form is LogFormat.CONSOLE
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    _lines.direct = form is LogFormat.JSON and root.isEnabledFor(logging.INFO)
    # uvicorn's access log prints query strings; ours does not.
    logging.getLogger("uvicorn.access").disabled = True


@dataclass(slots=True)
class Lines:
    """How the line of a request leaves."""

    direct: bool = False
    """Straight to standard error as JSON: the same line as through structlog and logging, at a tenth of the cost."""


_lines = Lines()


def write_line(fields: dict[str, Any]) -> None:
    """The line of a request that went well."""
    line = {"event": "request", **fields, "level": "info", "logger": "cacherl.http"}
    line["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    context = trace.current()
    if context is not None:
        line |= {"trace_id": context.trace_id, "request_id": context.request_id}
    sys.stderr.write(orjson.dumps(line).decode() + "\n")


class Telemetry:
    """The outermost ASGI layer of a service."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service
        self._running = RUNNING.labels(service)
        self._measures: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = trace.begin(headers.get("traceparent"), headers.get("x-request-id"), headers.get("tracestate"))
        token = trace.adopt(context)
        scope.setdefault("state", {})
        answer = Answer(send, context.request_id, scope["path"])
        started = time.perf_counter()
        error: Exception | None = None
        try:
            self._running.inc()
            await self.app(scope, receive, answer.send)
        except Exception as caught:
            error = caught
            await answer.fail(scope, receive)
        finally:
            self._running.dec()
            self._report(scope, answer.status or CLIENT_CLOSED, time.perf_counter() - started, error)
            trace.leave(token)

    def _report(self, scope: Scope, status: int, seconds: float, error: Exception | None) -> None:
        route, method = route_template(scope), scope["method"] if scope["method"] in METHODS else "other"
        count, histogram = self._measured(method, route, status)
        count.inc()
        histogram.observe(seconds)
        if route in QUIET and error is None and status < 500:
            return
        caller = scope["state"].get("caller")
        fields = {"tenant": caller.tenant, "key_id": caller.key_id, "job_id": caller.job_id} if caller is not None else {}
        fields |= {"action": "request", "service": self.service, "method": method, "route": route, "status": status}
        fields["ms"] = round(seconds * 1000, 2)
        if error is not None:
            log.error("request", exc_info=error, **fields)
        elif _lines.direct:
            write_line(fields)
        else:
            log.info("request", **fields)

    def _measured(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """The counters of a label set; finding them anew costs more than counting."""
        found = self._measures.get((method, route, status))
        if found is None:
            found = REQUESTS.labels(self.service, method, route, str(status)), SECONDS.labels(self.service, method, route)
            self._measures[method, route, status] = found
        return found


class Answer:
    """The answer under way: adds the request id and replaces a bare 413."""

    def __init__(self, send: Send, request_id: str, path: str) -> None:
        self._send = send
        self._request_id = request_id
        self._path = path
        self._replaced = False
        self.status = 0

    async def send(self, message: Message) -> None:
        """Passes a message on."""
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if self.status == 413 and headers.get("content-type") != MEDIA_TYPE:
                self._replaced = True
                await self._problem(status_problem(413, self._path))
                return
            headers["X-Request-ID"] = self._request_id
        await self._send(message)

    async def _problem(self, body: dict[str, Any]) -> None:
        response = problem_response(body, {"X-Request-ID": self._request_id})
        await self._send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await self._send({"type": "http.response.body", "body": response.body})

    async def fail(self, scope: Scope, receive: Receive) -> None:
        """After an error that nobody handled: a 500 where nothing was sent yet."""
        if self.status == 0:
            self.status = 500
            await self._problem(internal_problem(self._path))


def route_template(scope: Scope) -> str:
    """The template of the route that matched, such as `/v1/caches/{cache}`; `unmatched` for none."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(context, "path", None) or getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else "unmatched"
