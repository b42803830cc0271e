"""The table of contents of a run: prepare, train, evaluate. Each step is done once, also when the run is cut off and started again."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cacherl.api.trainer import Job, JobCreate
from cacherl.client import Client
from cacherl.evaluation import Evaluation
from cacherl.files import write_atomically
from cacherl.pipeline import prepare
from cacherl.pipeline.facts import RunFacts
from cacherl.pipeline.names import Names
from cacherl.pipeline.plan import RunPlan
from cacherl.pipeline.recipe import PlannedJob, evaluation_jobs, training_jobs
from cacherl.pipeline.state import RunState
from cacherl.pipeline.watch import Display, follow

LiveCount = Callable[[], Awaitable[int]]
"""The world's own counter."""


class Run:
    """One run of a plan against running services. `out` receives run.json, episodes and evaluations; the caller makes the report."""

    def __init__(
        self, plan: RunPlan, client: Client, out: Path, state: RunState, display: Display, *, live_count: LiveCount | None = None
    ) -> None:
        self.plan = plan
        self.client = client
        self.out = out
        self.state = state
        self.display = display
        self.live_count = live_count
        self.names = Names(prefix=f"{plan.name}-{state.run}")

    async def __call__(self) -> RunFacts:
        """Runs what is not done yet. Errors: `JobFailedError`, `ServiceError`, `DataError`."""
        training = training_jobs(self.plan, self.names)
        evaluations = evaluation_jobs(self.plan, self.names, training)
        data, caches, calibration = await self._prepare()
        before = await self._once("live before training", self._count)
        trained = await self._jobs(training, {})
        after = await self._once("live after training", self._count)
        evaluated = await self._jobs(evaluations, {label: job.id for label, job in trained.items()})
        final = await self._once("live after evaluation", self._count)
        results = await self._collect(evaluated)
        return RunFacts(
            plan=self.plan,
            names=self.names,
            data=data,
            caches=caches,
            calibration=calibration,
            jobs={**trained, **evaluated},
            evaluations=results,
            live_counts={"before": before, "after_training": after, "after_evaluation": final},
            grpo_steps={row: await self._metrics(trained[row]) for row in ("grpo", "recipe") if row in trained},
            sft_steps={row: await self._metrics(trained[row]) for row in ("sft", "sft_continued", "sft_accepted") if row in trained},
            seconds=self.state.seconds,
        )

    async def _prepare(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        done = "calibrate" in self.state.values
        corpus = None if done else prepare.Corpus(self.plan)
        data = await self._once("import", self._datasets, corpus)
        caches = await self._once("cache", self._caches, corpus)
        calibration = await self._once("calibrate", self._calibrate)
        return data, caches, calibration

    async def _datasets(self, corpus: prepare.Corpus) -> dict[str, Any]:
        name, run = self.names.dataset, self.state.run
        await prepare.dataset(self.client, name("logs"), "trajectories", corpus.train, f"{run}-logs")
        await prepare.dataset(self.client, name("tasks"), "tasks", corpus.tasks, f"{run}-tasks")
        await prepare.dataset(self.client, name("validation"), "tasks", corpus.validation, f"{run}-validation")
        return corpus.describe()

    async def _caches(self, corpus: prepare.Corpus) -> dict[str, Any]:
        name = self.names.cache
        train = await prepare.cache(self.client, name("train"), self.plan, prepare.training_lines(corpus, self.plan), corpus.train)
        held = corpus.held_out
        validation = await prepare.cache(self.client, name("validation"), self.plan, prepare.held_out_lines(corpus), held)
        if self.plan.live_server:
            await prepare.cache(self.client, name("live"), self.plan, [], held, live=self.plan.live_server)
        return {"train": train.model_dump(mode="json"), "validation": validation.model_dump(mode="json")}

    async def _calibrate(self) -> dict[str, Any]:
        found = {}
        for which in ("train", "validation"):
            cache, label = self.names.cache(which), f"calibrate {which}"
            found[which] = await prepare.calibrate(self.client, cache, self.plan.target_false, lambda s, at=label: self.display.step(at, s))
            self.display.step(label, finished=True)
        return found

    async def _count(self) -> int | None:
        return await self.live_count() if self.live_count else None

    async def _jobs(self, planned: list[PlannedJob], known: dict[str, str]) -> dict[str, Job]:
        ids = dict(known)
        for job in planned:
            request = JobCreate(spec=job.spec, depends_on=[ids[label] for label in job.after], priority=job.priority, label=job.label)
            ids[job.label] = (await self.client.trainer.create_job(request, key=f"{self.state.run}-{job.label}")).id
        jobs = await follow(self.client, {job.label: ids[job.label] for job in planned}, self.display)
        for label, job in jobs.items():
            if job.started_at and job.finished_at:
                self.state.seconds[label] = (job.finished_at - job.started_at).total_seconds()
        self.state.save(self.out)
        return jobs

    async def _collect(self, evaluated: dict[str, Job]) -> dict[str, Evaluation]:
        results = {}
        for label, job in evaluated.items():
            row = label.removeprefix("evaluate:")
            results[row] = Evaluation.model_validate_json(await self.client.trainer.artifact(job.id, "evaluation.json"))
            for artifact in (await self.client.trainer.artifacts(job.id)).items:
                if ".episodes.jsonl" in artifact.name:
                    path = self.out / "episodes" / f"{row}.{artifact.name}"
                    write_atomically(path, await self.client.trainer.artifact(job.id, artifact.name))
        return results

    async def _metrics(self, job: Job) -> list[dict[str, Any]]:
        return [record async for record in self.client.trainer.metrics(job.id)]

    async def _once(self, label: str, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Runs a step unless `run.json` has its value already."""
        if label in self.state.values:
            return self.state.values[label]
        began = time.monotonic()
        counted = label.startswith("live ")
        if not counted:
            self.display.step(label)
        value = await step(*arguments)
        self.state.values[label] = value
        if not counted:
            self.state.seconds[label] = time.monotonic() - began
            self.display.step(label, finished=True)
        self.state.save(self.out)
        return value
