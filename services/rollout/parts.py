"""What routes and runner work with: the parts of this service that live as long as its process."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.kit.auth import Caller, Scope, requires
from services.kit.postgres import Database
from services.rollout.bell import Bell
from services.rollout.caches import Caches
from services.rollout.fleet import Fleet
from services.rollout.renderers import Renderers
from services.rollout.settings import RolloutSettings


@dataclass(slots=True)
class Parts:
    """Everything that a request or a rollout may need."""

    database: Database
    settings: RolloutSettings
    fleet: Fleet
    caches: Caches
    renderers: Renderers
    bell: Bell
    """Rings when there is work, and when there are episodes."""


def parts_of(request: Request) -> Parts:
    """The parts of the application that serves a request."""
    return request.app.state.parts


PartsOf = Annotated[Parts, Depends(parts_of)]
Runs = Annotated[Caller, Depends(requires(Scope.ROLLOUT_RUN))]
