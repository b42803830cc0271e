"""The trainer API's client: datasets, jobs, policies."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson

from cacherl.api.common import Page
from cacherl.api.trainer import Artifact, Dataset, DatasetCreate, Job, JobCreate, JobEvent, PolicyRecord
from cacherl.client.service import ServiceClient
from cacherl.errors import ServiceError


class TrainerClient(ServiceClient):
    """Speaks to the trainer API: `async with TrainerClient(url, key) as trainer: …`."""

    async def create_dataset(self, dataset: DatasetCreate, *, key: str | None = None) -> Dataset:
        """A new, empty dataset."""
        return await self.http.post("/v1/datasets", dataset, Dataset, key=key)

    async def upload(self, dataset: str, parts: Iterable[bytes]) -> Dataset:
        """Uploads its bytes part by part, then completes it: imported and counted."""
        for number, part in enumerate(parts):
            await self.http.put(f"/v1/datasets/{dataset}/parts/{number}", part, Dataset)
        return await self.http.post(f"/v1/datasets/{dataset}/complete", None, Dataset)

    async def dataset(self, dataset: str) -> Dataset:
        """By id or name (the newest of that name)."""
        return await self.http.get(f"/v1/datasets/{dataset}", Dataset)

    async def records(self, dataset: str) -> AsyncIterator[dict[str, Any]]:
        """Its normalised records."""
        async for line in self.http.lines(f"/v1/datasets/{dataset}/records"):
            if line:
                yield orjson.loads(line)

    async def create_job(self, job: JobCreate, *, key: str | None = None) -> Job:
        """Queues work; it runs once its dependencies have succeeded."""
        return await self.http.post("/v1/jobs", job, Job, key=key)

    async def job(self, job: str) -> Job:
        """How far it is."""
        return await self.http.get(f"/v1/jobs/{job}", Job)

    async def jobs(self, *, limit: int = 100, cursor: str | None = None) -> Page[Job]:
        """The tenant's jobs, newest first."""
        return await self.http.get("/v1/jobs", Page[Job], limit=limit, cursor=cursor)

    async def events(self, job: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """What happens to a job, live, from `after` on; ends with the job. A broken stream is resumed where it broke."""
        failures = 0
        while True:
            try:
                async for event in self._events(job, after):
                    after, failures = event.id, 0
                    yield event
            except ServiceError:
                failures += 1
                if failures > 5:
                    raise
            if (await self.job(job)).state.final:
                return
            await asyncio.sleep(min(0.2 * 2**failures, 5))

    async def _events(self, job: str, after: int) -> AsyncIterator[JobEvent]:
        async for line in self.http.lines(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(after)}):
            if line.startswith(b"data:"):
                yield JobEvent.model_validate_json(line[5:].strip())

    async def metrics(self, job: str) -> AsyncIterator[dict[str, Any]]:
        """Its metrics, one record per step."""
        async for line in self.http.lines(f"/v1/jobs/{job}/metrics"):
            if line:
                yield orjson.loads(line)

    async def cancel(self, job: str) -> Job:
        """Asks it to stop; its dependents are cancelled with it."""
        return await self.http.post(f"/v1/jobs/{job}/cancel", None, Job)

    async def retry(self, job: str) -> Job:
        """Queues a failed or cancelled job again."""
        return await self.http.post(f"/v1/jobs/{job}/retry", None, Job)

    async def artifacts(self, job: str) -> Page[Artifact]:
        """The files it made."""
        return await self.http.get(f"/v1/jobs/{job}/artifacts", Page[Artifact])

    async def artifact(self, job: str, name: str) -> bytes:
        """One file."""
        return await self.http.file(f"/v1/jobs/{job}/artifacts/{name}")

    async def policies(self) -> Page[PolicyRecord]:
        """The newest version of every policy."""
        return await self.http.get("/v1/policies", Page[PolicyRecord])

    async def policy(self, name: str) -> PolicyRecord:
        """The newest version of one policy."""
        return await self.http.get(f"/v1/policies/{name}", PolicyRecord)
