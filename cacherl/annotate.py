"""What tools are like, where nobody has said it: annotations inferred from hints and words (method §3.2).

Given facts are never touched; a fact that is inferred stands with its evidence in `inferred`. In this order: what is given (by the user or
by the importer from MCP hints); then the words of the tool's name and description, and the look of its schema. All evidence of words is
marked `weak`. A tool that nothing shows to be read-only stays unknown (null), which everybody reads as mutating.

The verbs are general English. No benchmark's tool name stands here; a test renames the nouns of all tools and expects the same answers.
The seam for evidence from recordings is `infer` itself: it is given the trajectories, and today takes only the tools from them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from cacherl.tool_spec import Annotations, ToolSpec
from cacherl.trajectory import Trajectory

__all__ = ["infer", "inferred_from_spec"]

_READ_VERBS = """
browse calculate check compare compute convert count describe detect display estimate evaluate examine explain explore fetch filter find
forecast get inspect list locate look lookup measure observe peek plot predict preview query read recommend retrieve search see show stat
status suggest summarise summarize tail tell total translate view
"""
_WRITE_VERBS = """
accept activate add adjust allocate append apply approve archive assign attach authenticate authorize authorise buy cancel change
clear close commit compose configure confirm connect create deactivate decline delete deposit disable discard disconnect dispatch
drop edit enable enroll enter execute fill fix follow forward grant import increase insert install invite invoke join kill launch
leave lock login logout merge modify mount move mute notify open pay publish push put rebook reduce refund register reject release
remove rename renew reopen replace reply reschedule reserve reset restart restore resume return revoke rotate save sell send set
start stop submit subscribe swap switch sync terminate toggle touch transfer trigger turn unblock unfollow unlock unsubscribe
update upgrade upload upsert withdraw write
"""
_NOUN_OR_VERB = """
address block book charge comment copy exchange export like link log mail make mark message order pause place post press purchase
record report review run schedule share ship sign test track watch
"""
_NOUN_OR_READ = "check count display estimate forecast list look measure plot query search show stat status tail total view"
READS, WRITES, EITHER = (frozenset(verbs.split()) for verbs in (_READ_VERBS, _WRITE_VERBS, _NOUN_OR_VERB))
"""Verbs that look, verbs that change, and words that are a changing verb or only a noun."""
SURE = (READS - frozenset(_NOUN_OR_READ.split())) | WRITES
"""Verbs that are one wherever they stand in a name."""
_DESCRIBES_READING = re.compile(r"\b(?:read[- ]only|does not (?:modify|change)|without (?:modifying|changing))\b", re.I)
_IDENTIFIER_NAME = re.compile(
    r"(?:^|[_\-.])(?:id|ids|uuid|guid|key|code|number|no|email|e_mail|phone|zip|iban|sku|url|path|date|symbol)$", re.I
)
_CAMEL_ID = re.compile(r"[a-z](?:Id|ID|Ids|Uuid|Email|Number|Code|Date|Url|Path)$")
_IDENTIFIER_FORMATS = frozenset(
    {"uuid", "email", "idn-email", "date", "date-time", "time", "uri", "uri-reference", "hostname", "ipv4", "ipv6"}
)
_ARTICLES = frozenset({"the", "a", "an", "this", "tool", "function", "api", "can", "will", "is", "used", "to", "allows", "you", "user"})


def infer(trajectories: Iterable[Trajectory], given: Mapping[str, Annotations]) -> dict[str, Annotations]:
    """Annotations for every tool of the trajectories and of `given`: what is given, completed by what can be inferred.

    Tools that are called without a schema are known by their name alone.
    """
    specs: dict[str, ToolSpec] = {}
    called: set[str] = set()
    for trajectory in trajectories:
        specs.update((spec.name, spec) for spec in trajectory.tools if spec.name not in specs)
        called.update(call.function.name for message in trajectory.messages for call in message.tool_calls)
    out = {name: _completed(spec.annotations, spec, given.get(name)) for name, spec in specs.items()}
    for name in sorted((called | given.keys()) - specs.keys()):
        out[name] = _completed(Annotations(), None, given.get(name), name)
    return out


def inferred_from_spec(spec: ToolSpec) -> Annotations:
    """The annotations of one tool, completed from its own words and schema."""
    return _completed(spec.annotations, spec, None)


def _completed(own: Annotations, spec: ToolSpec | None, given: Annotations | None, name: str = "") -> Annotations:
    known = own.model_copy(update=_facts(given)) if given else own
    updates: dict[str, Any] = {}
    evidence = dict(known.inferred)
    if known.mutating is None:
        said = _mutates(spec.name if spec else name, spec.function.description if spec else "")
        if said is not None:
            updates["mutating"], evidence["mutating"] = said
    if not known.identifier and spec is not None:
        found = dict(_identifiers(spec.function.parameters))
        if found:
            updates["identifier"], evidence["identifier"] = sorted(found), {"from": "schema", "strength": "weak", "arguments": found}
    return known.model_copy(update=updates | {"inferred": evidence}) if updates else known


def _facts(given: Annotations) -> dict[str, Any]:
    """The fields that somebody set."""
    return {name: getattr(given, name) for name in given.model_fields_set}


@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z]+", " ", text)
    return tuple(word.lower() for word in split.split())


def _mutates(name: str, description: str) -> tuple[bool, dict[str, Any]] | None:
    """(mutating, evidence); None where no known verb speaks.

    The name's first word decides where it is a verb; else the first word of the name that can only be a verb; then the description's
    first verb; then a looking word anywhere in the name (`visits_count`); then a word that may be a noun (careful: it changes).
    """
    words = _words(name.rpartition(".")[2])
    verb = _first_word(words) or next((word for word in words if word in SURE), None)
    if verb is not None:
        return verb not in READS, {"from": "name", "verb": verb, "strength": "weak"}
    verb = _described(description)
    if verb is not None:
        return verb in WRITES, {"from": "description", "verb": verb, "strength": "weak"}
    verb = next((word for word in words if word in READS), None) or next((word for word in words if word in EITHER), None)
    return None if verb is None else (verb not in READS, {"from": "name", "verb": verb, "strength": "weak"})


def _first_word(words: tuple[str, ...]) -> str | None:
    """The first word where it is a verb that can be nothing else; a changing verb that is joined to it wins (`get_or_create`)."""
    first, rest = (words[0], words[1:]) if words else ("", ())
    if words[:2] in (("check", "in"), ("check", "out")):
        return " ".join(words[:2])
    joined = (after for word, after in pairwise(rest) if word in ("and", "or", "then") and after in WRITES | EITHER)
    if first in READS:
        return next(joined, first)
    return first if first in WRITES else None


def _described(description: str) -> str | None:
    """The first verb of a description, in its plain form; `Returns …` looks, though `return` changes."""
    if _DESCRIBES_READING.search(description):
        return "read"
    first = next((word for word in _words(description[:300]) if word not in _ARTICLES), "")
    if first in ("returns", "gives", "provides", "shows"):
        return "show"
    plain = (first, first.removesuffix("s"), first.removesuffix("es"), first.removesuffix("ies") + "y")
    return next((form for form in plain if form in READS or form in WRITES), None)


def _identifiers(schema: Any, pointer: str = "/arguments", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(pointer, why) of the arguments that name a thing, or are a number, a date or one of a list: two values of them never match."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or depth > 8:
        return
    for name, inner in properties.items():
        if isinstance(inner, dict):
            at = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            item = inner["items"] if inner.get("type") == "array" and isinstance(inner.get("items"), dict) else inner
            why = _names_a_thing(name, item)
            if why:
                yield at, why
            else:
                yield from _identifiers(item, at, depth + 1)


def _names_a_thing(name: str, schema: dict[str, Any]) -> str | None:
    if schema.get("enum") or "const" in schema:
        return "enum"
    if schema.get("format") in _IDENTIFIER_FORMATS:
        return f"format {schema['format']}"
    if schema.get("type") in ("integer", "number"):
        return "number"
    if schema.get("type") not in ("string", None):
        return None
    return "name" if _IDENTIFIER_NAME.search(name) or _CAMEL_ID.search(name) else None
