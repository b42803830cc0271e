"""Trace context (W3C Trace Context, level 1) and request id, carried from call to call.

A request that comes with a valid `traceparent` continues that trace, any other begins one. `outgoing_headers()` gives
what a call to another service must send on; `adopt` takes up the context that a job's row or a message carried.
"""

import re
import secrets
from contextvars import ContextVar, Token
from dataclasses import dataclass

TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
MAX_TRACESTATE = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where this piece of work stands: trace, span and the request that caused it."""

    trace_id: str
    span_id: str
    flags: str
    request_id: str
    state: str | None = None

    @property
    def traceparent(self) -> str:
        """The header's value, naming our span as the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_current: ContextVar[TraceContext | None] = ContextVar("cacherl_trace", default=None)


def begin(traceparent: str | None = None, request_id: str | None = None, tracestate: str | None = None) -> TraceContext:
    """A new span: in the caller's trace where `traceparent` is valid, else in a new one. Malformed headers count as absent."""
    match = TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    valid = match is not None and match[1] != "ff" and int(match[2], 16) and int(match[3], 16) and not (match[1] == "00" and match[5])
    known_id = request_id if request_id and REQUEST_ID.fullmatch(request_id) else secrets.token_hex(16)
    if match is None or not valid:
        return TraceContext(secrets.token_hex(16), secrets.token_hex(8), "01", known_id)
    state = tracestate if tracestate and len(tracestate) <= MAX_TRACESTATE and tracestate.isascii() and tracestate.isprintable() else None
    return TraceContext(match[2], secrets.token_hex(8), match[4], known_id, state)


def current() -> TraceContext | None:
    """The context of this task, or None outside a request."""
    return _current.get()


def adopt(context: TraceContext) -> Token[TraceContext | None]:
    """Makes `context` current; give the token to `leave`."""
    return _current.set(context)


def leave(token: Token[TraceContext | None]) -> None:
    """Restores what was current before."""
    _current.reset(token)


def outgoing_headers() -> dict[str, str]:
    """Headers for a call to another service: `traceparent`, `tracestate` where there is one, `X-Request-ID`; empty outside a request."""
    context = _current.get()
    if context is None:
        return {}
    headers = {"traceparent": context.traceparent, "X-Request-ID": context.request_id}
    return headers | ({"tracestate": context.state} if context.state else {})
