"""A view: one frozen way of reading a cache.

It says, for each tool, the spec with the annotations in force and, where it was calibrated, what each tier has earned. A tool that a view
has never changes in it; a batch may add tools that it has not seen (`since`), so a lookup at an older revision does not know them. Other
annotations make another view: keys of this one stay as they are, and whoever is pinned to it reads as before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cacherl.api.cache import ToolCalibration
from cacherl.errors import ConflictError
from cacherl.tier import Tier
from cacherl.tool_spec import Annotations, Function, ToolSpec


@dataclass(frozen=True, slots=True)
class ViewTool:
    """A tool as a view reads it."""

    spec: ToolSpec
    schema_hash: str | None
    since: int
    """The first revision that knows it."""

    @property
    def moves(self) -> bool:
        """Whether a call may change the state; unknown is yes."""
        return self.spec.annotations.mutating is not False


@dataclass(frozen=True)
class View:
    """A view, whole: small enough to be kept in memory."""

    id: str
    cache: str
    version: int
    covers_from: int
    covers_through: int | None
    """None: as far as the cache goes."""
    given: Mapping[str, Annotations]
    """What users and importers said, by tool; the rest of the annotations is inferred."""
    tools: Mapping[str, ViewTool]
    calibration: tuple[ToolCalibration, ...] = ()
    embedder: str | None = None
    """What made the vectors of the cache; None: it has none."""

    def tool(self, name: str, revision: int) -> ViewTool | None:
        """The tool at a revision, None where it was not known yet."""
        found = self.tools.get(name)
        return found if found is not None and found.since <= revision else None

    @cached_property
    def calibrated(self) -> Mapping[tuple[str, Tier], ToolCalibration]:
        """What calibration found, by tool and tier."""
        return {(found.tool, Tier(found.tier)): found for found in self.calibration}

    def refuse_outside(self, revision: int, cache_revision: int) -> None:
        """Raises `view-does-not-cover-revision` where this view has no keys for a revision."""
        through = cache_revision if self.covers_through is None else self.covers_through
        if not self.covers_from <= revision <= through:
            raise ConflictError(
                f"The view {self.id} covers the revisions {self.covers_from} to {through}, not {revision}.",
                slug="view-does-not-cover-revision",
            )


def unknown_tool_spec(name: str) -> ToolSpec:
    """What is known of a tool that was only ever called."""
    return ToolSpec(function=Function(name=name))


def in_force(inferred: Annotations | None, given: Annotations | None) -> Annotations:
    """Given annotations over inferred ones; what is given leaves no evidence behind."""
    base = inferred or Annotations()
    if given is None:
        return base
    said = given_fields(given)
    evidence = {name: proof for name, proof in base.inferred.items() if name not in said}
    return base.model_copy(update={name: getattr(given, name) for name in said} | {"inferred": evidence})


def given_fields(annotations: Annotations) -> set[str]:
    """The fields that somebody said: set, not null, and not marked as inferred."""
    return {
        name
        for name in annotations.model_fields_set - {"inferred"}
        if getattr(annotations, name) is not None and name not in annotations.inferred
    }


def only_given(annotations: Annotations) -> Annotations:
    """The given part of annotations, as it is stored."""
    return Annotations(**{name: getattr(annotations, name) for name in given_fields(annotations)})


def merged(base: Annotations | None, newer: Annotations) -> Annotations:
    """Two given annotations as one; the newer wins."""
    fields = {name: getattr(newer, name) for name in given_fields(newer)}
    return only_given(base.model_copy(update=fields)) if base is not None else only_given(newer)
