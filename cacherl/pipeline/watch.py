"""Shows jobs as they run: progress bars on a terminal, one line per change elsewhere. Always on standard error."""

import asyncio
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from cacherl.api.trainer import Job
from cacherl.client import Client
from cacherl.errors import CacheRLError
from cacherl.jobs import JobState


class JobFailedError(CacheRLError):
    """A job of the run did not succeed."""

    slug, title, status = "job-failed", "A job of the run failed", 500


class Display:
    """Bars of steps and jobs. A step is anything with a label; a job is a step whose progress the trainer tells."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[stage]:<44}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, str] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/]  {text}", highlight=False)

    def step(self, label: str, stage: str = "", done: float | None = None, total: float | None = None, *, finished: bool = False) -> None:
        """Shows where a step is."""
        if label not in self._tasks:
            self._tasks[label] = self.bars.add_task(label, total=total, stage=stage)
        if finished:
            done = total = max(total or 1, 1)
        self.bars.update(self._tasks[label], completed=done or 0, total=total, stage=stage[:44])
        if self.bars.disable and (finished or label not in self._told):
            self.say(f"{label:<22} {'done' if finished else 'started'} {stage}")
            self._told[label] = stage

    def job(self, label: str, job: Job) -> None:
        """Shows where a job is."""
        if job.state in (JobState.BLOCKED, JobState.QUEUED):
            return
        stage = job.stage or str(job.state)
        self.step(label, stage, job.progress.done, job.progress.total, finished=job.state is JobState.SUCCEEDED)


async def follow(client: Client, jobs: dict[str, str], display: Display, *, every_s: float = 0.5) -> dict[str, Job]:
    """Waits until all jobs ({label: id}) are final, showing them. Errors: `JobFailedError` with the first failure's reason."""
    open_jobs = dict(jobs)
    final: dict[str, Job] = {}
    while open_jobs:
        for label, identifier in list(open_jobs.items()):
            job = await client.trainer.job(identifier)
            display.job(label, job)
            if job.state.final:
                final[label] = job
                del open_jobs[label]
        failed = [(label, job) for label, job in final.items() if job.state is JobState.FAILED]
        if failed:
            label, job = failed[0]
            why = job.reason.detail if job.reason else "no reason was given"
            raise JobFailedError(f"{label} ({job.id}) failed: {why}")
        if open_jobs:
            await asyncio.sleep(every_s)
    cancelled = [label for label, job in final.items() if job.state is JobState.CANCELLED]
    if cancelled:
        raise JobFailedError(f"cancelled: {', '.join(cancelled)}")
    return final
