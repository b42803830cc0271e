"""Exact: the full key matches (scenario, scoped state, tool, canonical arguments); in preset `paper`, tool and arguments alone."""

from collections.abc import Iterable

from services.cache_api.tiers.candidate import Candidate, Match


def robust(candidates: Iterable[Candidate], *, schema_refuses: bool) -> Match | None:
    """What answers exactly: recordings that neither age nor schema dispute; for a call that the schema refuses, recorded errors alone."""
    kept = tuple(c for c in candidates if c.undisputed and (c.is_error or not schema_refuses))
    return Match(kept, 1.0) if kept else None


def paper(candidates: Iterable[Candidate]) -> Match | None:
    """Whatever was recorded for the call."""
    kept = tuple(candidates)
    return Match(kept, 1.0) if kept else None
