"""What one view sees of a track: keys, scoped states, identities and digests of its entries. Pure: tracks and a view in, rows out.

Embeddings are filled in afterwards, many texts at once. The same track under the same view always gives the same rows, but for the
entries' ids.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from cacherl.result_digest import result_digest
from cacherl.state import State, advance, scoped
from cacherl.tool_call import canonical_arguments
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import identity
from services.cache_api.embed import call_text
from services.cache_api.event import Event, Link, Track, content_hash, link
from services.cache_api.lookup_key import lookup_key

Specs = Mapping[str, ToolSpec]


@dataclass(slots=True)
class KeyRow:
    """One entry as a view sees it."""

    entry: str
    tool: str
    key: bytes
    identity: bytes
    scoped_state: bytes | None
    scenario: str
    source: str
    task: str | None
    result_digest: bytes
    is_error: bool
    transient: bool
    schema_hash: str | None
    recorded_at: datetime | None
    text: str
    """What is embedded."""
    embedding: str | None = None
    """As pgvector reads it; None in a cache without vectors."""


@dataclass(slots=True)
class EntryRow:
    """One entry as it is stored."""

    id: str
    tool: str
    arguments: str
    result: str
    is_error: bool
    scenario: str
    source: str
    step: int
    task: str | None
    history: bytes | None
    schema_hash: str | None
    content_hash: bytes
    recorded_at: datetime | None
    line: int


@dataclass(slots=True)
class Keyed:
    """An entry, its key, and the links of history that came before it since the last one."""

    entry: EntryRow
    key: KeyRow
    links: list[Link]


def keyed(track: Track, view: str, specs: Specs, ids: Iterator[str]) -> Iterator[Keyed]:
    """The rows of a track's entries, in order. Raises `DataError` for arguments that have no canonical form."""
    state, parent = State.start(view), None
    links: list[Link] = []
    for event in track.events:
        spec, call = specs.get(event.name), event.call
        if event.step is not None:
            entry = entry_row(track, event, next(ids), parent)
            yield Keyed(entry, key_row(entry, event.arguments, event.content, event.transient, scoped(state, call, spec), spec), links)
            links = []
        state = advance(state, call, spec, event.outcome, event.result)
        following = link(parent, event)
        links.append(following)
        parent = following.id


def entry_row(track: Track, event: Event, name: str, history: bytes | None) -> EntryRow:
    """An event as it is stored."""
    assert event.step is not None
    return EntryRow(
        id=name,
        tool=event.name,
        arguments=to_json(event.arguments).decode(),
        result=to_json(event.content).decode(),
        is_error=event.is_error,
        scenario=track.scenario,
        source=track.source,
        step=event.step,
        task=track.task,
        history=history,
        schema_hash=event.schema_hash,
        content_hash=content_hash(event, track.scenario),
        recorded_at=event.recorded_at,
        line=event.line,
    )


def key_row(
    entry: EntryRow, arguments: dict[str, Any], content: Any, transient: bool, scoped_state: bytes | None, spec: ToolSpec | None
) -> KeyRow:
    """What a view sees of a stored entry."""
    canonical_ones = canonical_arguments(arguments, spec)
    return KeyRow(
        entry=entry.id,
        tool=entry.tool,
        key=lookup_key(entry.tool, canonical_ones, spec),
        identity=identity(entry.tool, canonical_ones, spec),
        scoped_state=scoped_state,
        scenario=entry.scenario,
        source=entry.source,
        task=entry.task,
        result_digest=result_digest(content, entry.is_error, spec),
        is_error=entry.is_error,
        transient=transient,
        schema_hash=entry.schema_hash,
        recorded_at=entry.recorded_at,
        text=call_text(entry.tool, canonical_ones),
    )
