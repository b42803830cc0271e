"""`cacherl jobs`: what the trainer does."""

import asyncio
from pathlib import Path

import typer

from cacherl.api.trainer import Job
from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import HomeOption, JsonOption
from cacherl.client import TrainerClient
from cacherl.pipeline.watch import Display, follow
from cacherl.runtime import connect

app = typer.Typer(no_args_is_help=True, help="Jobs of the trainer.")


@app.command("list")
@speaks_plainly
def list_jobs(home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """The jobs there are, newest first."""

    async def ask() -> None:
        async with _client(home) as client:
            page = await client.jobs()
        if as_json:
            print_json(page)
        else:
            print_table(["job", "kind", "label", "state", "stage"], [_row(job) for job in page.items])

    asyncio.run(ask())


@app.command()
@speaks_plainly
def show(job: str, home: Path = HomeOption) -> None:
    """Everything about one job."""

    async def ask() -> None:
        async with _client(home) as client:
            print_json(await client.job(job))

    asyncio.run(ask())


@app.command()
@speaks_plainly
def cancel(job: str, home: Path = HomeOption) -> None:
    """Stop a job; those that wait for it are cancelled too."""

    async def ask() -> None:
        async with _client(home) as client:
            print_table(["job", "kind", "label", "state", "stage"], [_row(await client.cancel(job))])

    asyncio.run(ask())


@app.command()
@speaks_plainly
def retry(job: str, home: Path = HomeOption) -> None:
    """Queue a failed or cancelled job again; it resumes from its last checkpoint."""

    async def ask() -> None:
        async with _client(home) as client:
            print_table(["job", "kind", "label", "state", "stage"], [_row(await client.retry(job))])

    asyncio.run(ask())


@app.command()
@speaks_plainly
def watch(jobs: list[str], home: Path = HomeOption) -> None:
    """Show jobs until they end; exit code 1 if one fails."""

    async def ask() -> None:
        runtime = connect(home)
        from cacherl.client import Client  # noqa: PLC0415  (the other commands need one service only)

        async with Client(runtime.urls, runtime.key) as client:
            with Display() as display:
                await follow(client, {job: job for job in jobs}, display)

    asyncio.run(ask())


def _row(job: Job) -> list[str]:
    return [job.id, str(job.kind), job.label or "", str(job.state), job.stage or (job.reason.detail if job.reason else "")]


def _client(home: Path) -> TrainerClient:
    runtime = connect(home)
    return TrainerClient(runtime.urls.trainer, runtime.key)
