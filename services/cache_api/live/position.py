"""How far an episode is in its live session: it travels in the state token, so the server remembers no episode.

A token of a live mode is a state token, a dot, and the position: which attempt at the episode it is, the next step, the link of the last
live call, and for each mutation of the state whether it was made in this session. It is bound to the session by a checksum: under another
session's name the position says nothing, and nothing counts as made live.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, replace

from cacherl.errors import InputError
from cacherl.state import State

MARK = "."
LINK_BYTES = 16
UNKNOWN = 128
_CHECK_BYTES = 4
_STEP_BYTES = 4


@dataclass(frozen=True, slots=True)
class Position:
    """Where an episode stands among its live calls."""

    attempt: int
    """1 for the first run of the episode; a repetition is a source of its own."""
    step: int
    """The step of its next live call."""
    parent: bytes | None
    """The link of its last live call."""
    live: int = 0
    """Bit i: the state's mutation i was made in this session."""
    known: bool = True
    """Whether the view knew every tool of the episode so far. Else its state may be another once the view has got to know them."""

    def after(self, link: bytes, before: State, state: State, *, known: bool) -> "Position":
        """The position after a live call of a known tool or another, that moved the state from `before` to `state`."""
        live = self.live
        for number in range(len(before.mutations), len(state.mutations)):
            live |= 1 << number
        return replace(self, step=self.step + 1, parent=link, live=live, known=self.known and known)


def joined(state: State, position: Position | None, session: str) -> str:
    """The token of a state and a position."""
    if position is None:
        return state.token
    body = (
        bytes([position.attempt | (0 if position.known else UNKNOWN)])
        + position.step.to_bytes(_STEP_BYTES, "big")
        + (position.parent or bytes(LINK_BYTES))
    )
    body += position.live.to_bytes((position.live.bit_length() + 7) // 8, "big")
    return state.token + MARK + urlsafe_b64encode(_check(session, body) + body).rstrip(b"=").decode()


def state_part(token: str | None) -> str | None:
    """The part of a token that says what the state is, whatever mode gave it."""
    return token.partition(MARK)[0] if token is not None else None


def position_of(token: str | None, session: str) -> Position | None:
    """The position in a token; None where it holds none, or that of another session. Errors: InputError `not-a-state`."""
    text = token.partition(MARK)[2] if token is not None else ""
    if not text:
        return None
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeError, Base64Error):
        raise InputError("not a state token: its live part cannot be read", slug="not-a-state") from None
    check, body = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    fixed = 1 + _STEP_BYTES + LINK_BYTES
    if len(body) < fixed:
        raise InputError("not a state token: its live part ends early", slug="not-a-state")
    if check != _check(session, body):
        return None
    parent = body[1 + _STEP_BYTES : fixed]
    step = int.from_bytes(body[1 : 1 + _STEP_BYTES], "big")
    live = int.from_bytes(body[fixed:], "big")
    return Position(body[0] & ~UNKNOWN, step, parent if any(parent) else None, live, known=body[0] < UNKNOWN)


def _check(session: str, body: bytes) -> bytes:
    return hashlib.blake2s(session.encode("utf-8", "surrogatepass") + b"\0" + body, digest_size=_CHECK_BYTES).digest()
