"""The reward service's application: `services.reward.app:create(settings)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from cacherl import __version__
from services.kit.application import create_app
from services.reward.judges.registry import Judges
from services.reward.routes import routes
from services.reward.score import Scorer
from services.reward.settings import RewardSettings
from services.reward.verdicts import Verdicts


def create(settings: RewardSettings) -> FastAPI:
    """The application. A judge that is away does not make it unready: `facts` needs nothing."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        judges = Judges(settings.judges, Verdicts(app.state.database))
        app.state.judges, app.state.scorer = judges, Scorer(settings, judges)
        try:
            yield
        finally:
            await judges.close()

    return create_app(name="reward", version=__version__, settings=settings, routers=[routes], lifespan=lifespan)
