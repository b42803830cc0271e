"""Which tools a view knows, and how: what was given, over what their words say (method §3.2). Recordings are asked by `learn`."""

from collections.abc import Iterable, Mapping

from cacherl.annotate import inferred_from_spec
from cacherl.tool_spec import Annotations, ToolSpec
from cacherl.wire import Json
from services.cache_api.event import schema_hash
from services.cache_api.view import ViewTool, given_fields, in_force, merged, only_given, unknown_tool_spec

Given = dict[str, Annotations]


def given_with(base: Mapping[str, Annotations], specs: Iterable[ToolSpec], overrides: Mapping[str, Annotations] | None = None) -> Given:
    """What was given so far, with what specs say where nobody said anything yet, and overrides above all."""
    given = dict(base)
    for spec in specs:
        if given_fields(spec.annotations):
            given[spec.name] = merged(only_given(spec.annotations), given.get(spec.name, Annotations()))
    for name, annotations in (overrides or {}).items():
        given[name] = merged(given.get(name), annotations)
    return given


def view_tools(specs: Mapping[str, ToolSpec], given: Mapping[str, Annotations], since: int = 0) -> list[ViewTool]:
    """The tools of a view: what was given, completed by what can be inferred."""
    out: list[ViewTool] = []
    for name, spec in sorted(specs.items()):
        known = spec.model_copy(update={"annotations": in_force(spec.annotations, given.get(name))})
        out.append(ViewTool(known.model_copy(update={"annotations": inferred_from_spec(known)}), schema_hash(spec), since))
    return out


def remembered(spec: ToolSpec) -> ToolSpec:
    """A spec of a view without what that view inferred itself: what was given and what a server's hints said."""
    said = spec.annotations
    kept: dict[str, Json] = {name: proof for name, proof in said.inferred.items() if isinstance(proof, dict) and proof.get("from") == "mcp"}
    fields = given_fields(said) | kept.keys()
    annotations = Annotations(**{name: getattr(said, name) for name in fields if name in Annotations.model_fields}, inferred=kept)
    return spec.model_copy(update={"annotations": annotations})


def specs_for(names: Iterable[str], found: Mapping[tuple[str, str | None], ToolSpec]) -> dict[str, ToolSpec]:
    """A spec for each name: the last that says something, else one that says nothing."""
    specs: dict[str, ToolSpec] = {}
    for name in names:
        candidates = [(hashed is not None, spec) for (owner, hashed), spec in found.items() if owner == name]
        specs[name] = max(candidates, key=lambda item: item[0])[1] if candidates else unknown_tool_spec(name)
    return specs
