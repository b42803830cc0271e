"""The state of an episode's environment, as far as recordings can tell: which calls changed it so far (method §3.3, contracts §2).

A state is a pure value: the view that it was computed under and, for each mutating call that was answered, its resource group, a digest of
the canonical call and the hashed identifiers of its arguments and result; and the groups in which something happened that nobody knows.
`advance` moves it, `scoped` gives the digest that a tool's full key holds. The token is self-contained, so the server remembers no episode.

Promises: a read never moves it; the order of the mutations in a scope counts, those outside never do; a mutating call that may have
happened without being known (a miss, a transient error) makes every scope it lies in unknown, and no recording agrees with an unknown
state. It must never know a tool's name or meaning: the spec's annotations decide.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from cacherl.error_class import ErrorClass, error_class
from cacherl.errors import ConflictError, InputError
from cacherl.identifiers import identifiers, mentioned
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall, canonical_arguments, key_of
from cacherl.tool_spec import Scope, ToolSpec

__all__ = ["Mutation", "State", "advance", "scoped", "scoped_in", "seen"]

TOKEN_VERSION = 1
DIGEST_BYTES = 8
IDENTIFIER_BYTES = 4
MAX_IDENTIFIERS = 32
"""A mutation that mentions more than this lies in every identifier scope of its group: careful, and the token stays small."""
MAX_TOKEN = 1 << 20
_CHECK_BYTES = 4


@dataclass(frozen=True)
class Mutation:
    """One call that changed something."""

    group: str
    digest: bytes
    """The first 8 bytes of the call's exact key."""
    identifiers: frozenset[bytes] | None
    """4-byte hashes of what it mentions; None: too many to tell, it touches every identifier."""


@dataclass(frozen=True)
class State:
    """Immutable; equal states have equal tokens."""

    view: str
    mutations: tuple[Mutation, ...] = ()
    unknown: frozenset[str] = frozenset()
    """Groups in which an unknown mutation may have happened."""

    @staticmethod
    def start(view: str) -> "State":
        """The state of an untouched scenario."""
        return State(view)

    @staticmethod
    def parse(token: str | None, view: str) -> "State":
        """The state of a token; None is the start.

        Raises `ConflictError` (`state-of-another-view`) for a token of another view and `InputError` for anything that is not a token.
        """
        if token is None:
            return State(view)
        state = _parse(token)
        if state.view != view:
            raise ConflictError(
                f"the state was computed under view {state.view}, the lookup reads view {view}: send the history",
                slug="state-of-another-view",
            )
        return state

    @cached_property
    def token(self) -> str:
        """Opaque and self-contained, base64url; 10 bytes and 4 per identifier for each mutation."""
        groups = sorted({m.group for m in self.mutations} | self.unknown)
        parts = [bytes([TOKEN_VERSION]), _text(self.view), _count(len(groups)), *map(_text, groups)]
        parts += [_count(len(self.unknown)), *(_count(groups.index(g)) for g in sorted(self.unknown)), _count(len(self.mutations))]
        for mutation in self.mutations:
            hashes = mutation.identifiers
            parts += [_count(groups.index(mutation.group)), mutation.digest, bytes([255 if hashes is None else len(hashes)])]
            parts += sorted(hashes or ())
        body = b"".join(parts)
        return urlsafe_b64encode(body + _checksum(body)).rstrip(b"=").decode()


Canonical = dict[str, Any] | None
"""A call's canonical arguments, where the caller has them already."""


def advance(
    state: State, call: ToolCall, spec: ToolSpec | None, outcome: CallOutcome, result: ToolResult, canonical: Canonical = None
) -> State:
    """The state after a call. A tool without a spec, or of which nothing is known, counts as mutating."""
    if outcome in (CallOutcome.MALFORMED, CallOutcome.UNKNOWN_TOOL):
        return state
    if spec is not None and spec.annotations.mutating is False:
        return state
    group = _group(call, spec)
    if outcome is CallOutcome.MISS or (result.is_error and error_class(result) is ErrorClass.TRANSIENT):
        return state if group in state.unknown else replace(state, unknown=state.unknown | {group})
    if result.is_error:
        return state
    arguments = canonical_arguments(call.arguments, spec) if canonical is None else canonical
    found = identifiers(arguments, spec) | mentioned(arguments) | mentioned(result.content)
    hashes = None if len(found) > MAX_IDENTIFIERS else frozenset(map(_hashed, found))
    mutation = Mutation(group, key_of(call.name, arguments)[:DIGEST_BYTES], hashes)
    if spec is not None and spec.annotations.idempotent and state.mutations[-1:] and state.mutations[-1].digest == mutation.digest:
        return state
    return replace(state, mutations=(*state.mutations, mutation))


def scoped(state: State, call: ToolCall, spec: ToolSpec | None, canonical: Canonical = None) -> bytes | None:
    """Digest (16 bytes) of the earlier mutations in the tool's scope, in their order; None where unknown: then no recording agrees."""
    return scoped_in(_scope(spec), state, call, spec, canonical)


def scoped_in(scope: Scope, state: State, call: ToolCall, spec: ToolSpec | None, canonical: Canonical = None) -> bytes | None:
    """What `scoped` would be if the tool had this scope."""
    found = _within(scope, state, call, spec, canonical)
    return None if found is None else _chain(tuple((state.mutations[n].group, state.mutations[n].digest) for n in found))


def seen(state: State, call: ToolCall, spec: ToolSpec | None) -> Sequence[int] | None:
    """Which mutations of the state lie in the tool's scope, by number; None where something unknown does."""
    return _within(_scope(spec), state, call, spec)


def _scope(spec: ToolSpec | None) -> Scope:
    if spec is not None and spec.annotations.reads_state is False:
        return Scope.NONE
    return (spec.annotations.scope if spec else None) or Scope.GROUP


def _within(scope: Scope, state: State, call: ToolCall, spec: ToolSpec | None, canonical: Canonical = None) -> Sequence[int] | None:
    if scope is Scope.NONE:
        return ()
    if scope is Scope.ALL:
        return None if state.unknown else range(len(state.mutations))
    group = _group(call, spec)
    if group in state.unknown:
        return None
    found = [n for n, mutation in enumerate(state.mutations) if mutation.group == group]
    if found and scope is Scope.IDENTIFIER:
        arguments = canonical_arguments(call.arguments, spec) if canonical is None else canonical
        mine = frozenset(map(_hashed, identifiers(arguments, spec)))
        if mine:
            touched = [state.mutations[n].identifiers for n in found]
            found = [n for n, hashes in zip(found, touched, strict=True) if hashes is None or hashes & mine]
    return found


def _group(call: ToolCall, spec: ToolSpec | None) -> str:
    return spec.resource_group if spec is not None else call.name.rpartition(".")[0]


@lru_cache(maxsize=16384)
def _chain(mutations: tuple[tuple[str, bytes], ...]) -> bytes:
    chain = hashlib.blake2b(digest_size=16)
    for group, digest in mutations:
        chain.update(_text(group) + digest)
    return chain.digest()


@lru_cache(maxsize=16384)
def _hashed(identifier: str) -> bytes:
    return hashlib.blake2s(identifier.encode("utf-8", "surrogatepass"), digest_size=IDENTIFIER_BYTES).digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2s(body, digest_size=_CHECK_BYTES).digest()


def _count(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _count(len(encoded)) + encoded


class _Reader:
    """Takes a token's body apart; runs out with IndexError."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def take(self, length: int) -> bytes:
        if self.at + length > len(self.body):
            raise IndexError("the token ends early")
        self.at += length
        return self.body[self.at - length : self.at]

    def count(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def text(self) -> str:
        return self.take(self.count()).decode()

    def mutation(self, groups: list[str]) -> Mutation:
        group, digest, length = groups[self.count()], self.take(DIGEST_BYTES), self.take(1)[0]
        if length == 255:
            return Mutation(group, digest, None)
        return Mutation(group, digest, frozenset(self.take(IDENTIFIER_BYTES) for _ in range(length)))


@lru_cache(maxsize=8192)
def _parse(token: str) -> State:
    try:
        if len(token) > MAX_TOKEN:
            raise IndexError("the token is too long")
        raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        if _checksum(body) != check or body[:1] != bytes([TOKEN_VERSION]):
            raise IndexError("the token is damaged or of another version")
        reader = _Reader(body[1:])
        view = reader.text()
        groups = [reader.text() for _ in range(reader.count())]
        unknown = frozenset(groups[reader.count()] for _ in range(reader.count()))
        mutations = tuple(reader.mutation(groups) for _ in range(reader.count()))
        if reader.at != len(reader.body):
            raise IndexError("the token goes on after its end")
    except (IndexError, UnicodeError, Base64Error) as error:
        raise InputError(f"not a state token: {error}", slug="not-a-state") from None
    state = State(view, mutations, unknown)
    if state.token != token:
        raise InputError("not a state token: it is not in its one canonical form", slug="not-a-state")
    return state
