"""What a request is pinned to: chosen once, answered, and the same for every later request of a run."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cacherl.api.cache import CacheSettings, LookupRequest
from cacherl.errors import ConflictError
from services.cache_api.lookup import Pins
from services.cache_api.purge import refuse_erased
from services.cache_api.view import View


def pins_of(found: Mapping[str, Any], view: View, body: LookupRequest) -> Pins:
    """The pins of a request on a cache's row and the view that it reads.

    Errors: ConflictError `view-of-another-cache`, `view-does-not-cover-revision`; GoneError `revision-erased`.
    """
    if view.cache != found["id"]:
        raise ConflictError("This view belongs to another cache.", slug="view-of-another-cache")
    if view.covers_through is None and view.id != found["view"]:
        raise ConflictError("This view is still being built.", slug="view-does-not-cover-revision")
    revision = body.revision
    if revision is None:
        revision = found["revision"] if view.covers_through is None else view.covers_through
    view.refuse_outside(revision, found["revision"])
    refuse_erased(found["erased"], revision)
    settings = CacheSettings.model_validate(found["settings"])
    return Pins(found["id"], settings, revision, view, body.as_of or datetime.now(UTC), body.preset or settings.preset)
