"""What the routes work with: the parts of this service that live as long as its process."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.cache_api.direct import Direct
from services.cache_api.embed import Embedder, HashingEmbedder
from services.cache_api.jobs import Worker
from services.cache_api.live.landings import Landings
from services.cache_api.live.servers import LiveServers
from services.cache_api.live.shadows import Shadows
from services.cache_api.live.writing import LiveWriter
from services.cache_api.record import Recorder
from services.cache_api.redact import Redactor
from services.cache_api.settings import CacheSettings
from services.cache_api.tally import Tally
from services.cache_api.views import Views
from services.kit.auth import Caller, Scope, requires
from services.kit.postgres import Database


@dataclass(slots=True)
class Parts:
    """Everything a request may need."""

    database: Database
    settings: CacheSettings
    embedder: Embedder
    redactor: Redactor
    views: Views
    recorder: Recorder
    tally: Tally
    worker: Worker
    live: LiveServers
    live_writer: LiveWriter
    landings: Landings
    shadows: Shadows
    direct: Direct

    @classmethod
    def of(cls, database: Database, settings: CacheSettings) -> "Parts":
        """The parts on an open database."""
        embedder, redactor, views = HashingEmbedder(), Redactor(settings.pepper.get_secret_value()), Views()
        recorder = Recorder(database, views, embedder, redactor, settings)
        worker = Worker(database, embedder, settings.job_poll_s)
        live = LiveServers(settings.live_servers, settings.live_timeout_s)
        return cls(
            database,
            settings,
            embedder,
            redactor,
            views,
            recorder,
            Tally(database),
            worker,
            live,
            LiveWriter(database, embedder),
            Landings(),
            Shadows(),
            Direct(database, settings.database_url, embedder, redactor, settings.memory_bytes),
        )


async def parts_of(request: Request) -> Parts:
    """The parts of the application that serves a request. Async although it waits for nothing: FastAPI gives any other to a thread."""
    return request.app.state.parts


PartsOf = Annotated[Parts, Depends(parts_of)]
Reader = Annotated[Caller, Depends(requires(Scope.CACHE_READ))]
Writer = Annotated[Caller, Depends(requires(Scope.CACHE_WRITE))]
