"""Learning over a cache in Postgres: reads the recordings a block at a time and gives the tools of a view with what they show.

They are read twice where they show that other tools mutate than was thought: then every state is another. Memory grows by some 200 bytes
for each call (`observe`, `traces`). What somebody gave is never touched; what is learned stands in the spec with its evidence, so a view
that was built stays as it is whatever is recorded afterwards.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from cacherl.state import State
from cacherl.tool_call import canonical_arguments, key_of
from cacherl.tool_spec import Annotations, Scope, ToolSpec
from services.cache_api import store
from services.cache_api.event import Event, Link
from services.cache_api.histories import states_of
from services.cache_api.keying import result_digest
from services.cache_api.learning.effects import annotated
from services.cache_api.learning.immaterial import Texts, with_immaterial
from services.cache_api.learning.observe import Observations
from services.cache_api.learning.scopes import Learned, learned_scopes
from services.cache_api.learning.texts import asks_for_texts, with_canonicaliser
from services.cache_api.learning.traces import Traces
from services.cache_api.lookup_key import lookup_key
from services.cache_api.store import Row
from services.cache_api.view import ViewTool, given_fields
from services.kit.postgres import AsyncRows, Database, load_queries

queries = load_queries(Path(__file__).parent.with_name("learning.sql"))
BLOCK = 2_000
SAMPLE = 300


class Learner:
    """Learns from the recordings of one cache."""

    def __init__(self, database: Database, tenant: str, cache: str) -> None:
        self.database, self.tenant, self.cache = database, tenant, cache

    async def tools(
        self, tools: Iterable[ViewTool], given: Mapping[str, Annotations], required: int | None = None
    ) -> tuple[list[ViewTool], dict[str, Any] | None]:
        """The tools with what the recordings show of them, and how scopes were chosen (None: nothing is recorded).

        In this order, since each rests on the one before: canonicalisers, what mutates and which texts are immaterial, scopes. `required`
        as `learned_scopes` has it.
        """
        known = list(tools)
        specs = await self._texts({tool.spec.name: tool.spec for tool in known})
        seen = await self._seen(specs)
        shown = await asyncio.to_thread(annotated, specs, seen.traces)
        shown = await asyncio.to_thread(with_immaterial, shown, seen.texts, said_immaterial(given))
        if mutations(shown) != mutations(specs) or any(
            shown[name].annotations.immaterial != specs[name].annotations.immaterial for name in shown
        ):
            seen = await self._seen(shown)
        if not seen.observations.tools:
            return known, None
        learned, choice = await asyncio.to_thread(learned_scopes, seen.observations, given_scopes(shown), required=required)
        found = [ViewTool(shown[tool.spec.name], tool.schema_hash, tool.since) for tool in known]
        return [with_scope(tool, learned.get(tool.spec.name)) for tool in found], choice.model()

    async def _texts(self, specs: Mapping[str, ToolSpec]) -> dict[str, ToolSpec]:
        out = dict(specs)
        for name, spec in specs.items():
            if asks_for_texts(spec):
                async with self.database.tenant(self.tenant) as connection:
                    sample = {"cache": self.cache, "tool": name, "limit": SAMPLE}
                    rows = await store.rows(connection, queries.arguments_of, sample)
                out[name] = await asyncio.to_thread(with_canonicaliser, spec, [row["arguments"] for row in rows])
        return out

    async def _seen(self, specs: Mapping[str, ToolSpec]) -> "Seen":
        """Everything that is recorded by now, as the learners see it."""
        found = Seen(specs)
        async for rows, links in self._blocks():
            await asyncio.to_thread(found.add, rows, links)
        return found

    async def keep(self, connection: AsyncRows, view: str, learning: dict[str, Any] | None) -> None:
        """Keeps with a view how its scopes were chosen."""
        if learning is not None:
            await connection.execute(queries.keep_learning, {"view": view, "learning": to_json(learning).decode()})

    async def _blocks(self) -> AsyncIterator[tuple[list[Row], list[Link]]]:
        async with self.database.tenant(self.tenant) as connection:
            through = (await store.find_cache(connection, self.cache))["revision"]
        source, step = "", -1
        while True:
            place = {"cache": self.cache, "through": through, "source": source, "step": step, "limit": BLOCK}
            async with self.database.tenant(self.tenant) as connection:
                rows = await store.rows(connection, queries.entries_to_learn, place)
                histories = [row["history"] for row in rows if row["history"] is not None]
                links = await store.rows(connection, store.queries.chains, {"cache": self.cache, "ids": histories}) if histories else []
            if not rows:
                return
            yield rows, [store.link_of(row) for row in links]
            source, step = rows[-1]["source"], rows[-1]["step"]


class Seen:
    """The recordings, read once."""

    def __init__(self, specs: Mapping[str, ToolSpec]) -> None:
        self.specs = specs
        self.observations = Observations()
        self.traces = Traces(specs)
        self.texts = Texts()

    def add(self, rows: list[Row], links: list[Link]) -> None:
        """Entries, and the links of their histories from the start."""
        states = states_of(links, "", self.specs)
        self.traces.add_links(links)
        for row in rows:
            event = Event(row["tool"], row["arguments"], row["result"], row["is_error"])
            if event.transient:
                continue
            spec, history = self.specs.get(event.name), bytes(row["history"]) if row["history"] is not None else None
            canonical = canonical_arguments(event.arguments, spec)
            key, result = key_of(event.name, canonical), result_digest(event.content, event.is_error, spec)
            state = states[history] if history is not None else State.start("")
            self.traces.add(event, history, row["scenario"], row["source"], key, result)
            told = {"scenario": row["scenario"], "source": row["source"], "task": row["task"], "result": result}
            self.observations.add(event.call, spec, state, key=lookup_key(event.name, canonical, spec), **told)
            self.texts.add(event.name, canonical, spec, **told)


def mutations(specs: Mapping[str, ToolSpec]) -> dict[str, bool]:
    """What each tool is taken to do to the state; unknown is as good as mutating."""
    return {name: spec.annotations.mutating is not False for name, spec in specs.items()}


def said_immaterial(given: Mapping[str, Annotations]) -> set[str]:
    """The tools of which somebody said which texts are immaterial, be it none."""
    return {name for name, annotations in given.items() if "immaterial" in given_fields(annotations)}


def given_scopes(specs: Mapping[str, ToolSpec]) -> dict[str, Scope]:
    """The scopes that somebody gave; a tool whose result depends on no state has none to learn."""
    fixed: dict[str, Scope] = {}
    for name, spec in specs.items():
        said = spec.annotations
        if said.reads_state is False:
            fixed[name] = Scope.NONE
        elif said.scope is not None and "scope" not in said.inferred:
            fixed[name] = said.scope
    return fixed


def with_scope(tool: ViewTool, learned: Learned | None) -> ViewTool:
    """A tool with the scope that was learned. A given one stays; what the recordings say of it stands beside it as `recorded_scope`."""
    if learned is None:
        return tool
    said: Annotations = tool.spec.annotations
    given = (said.scope is not None and "scope" not in said.inferred) or said.reads_state is False
    told = learned.model()
    if given:
        found = {"inferred": said.inferred | {"recorded_scope": told | {"finest": learned.evidence.choose(learned.required).value}}}
    else:
        found = {"scope": learned.scope, "inferred": said.inferred | {"scope": told}}
    return ViewTool(tool.spec.model_copy(update={"annotations": said.model_copy(update=found)}), tool.schema_hash, tool.since)
