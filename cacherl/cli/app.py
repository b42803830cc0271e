"""The command tree."""

import typer

from cacherl import __version__
from cacherl.cli import cache, data, jobs, proxy, rollout, run, score, system

app = typer.Typer(
    name="cacherl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn the logs of tool-calling agents into a small model that calls those tools, without calling one live while it trains.",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command("demo")(run.demo)
app.command("run")(run.run)
app.command("up")(system.up)
app.command("down")(system.down)
app.command("status")(system.status)
app.command("score")(score.score)
app.add_typer(data.app, name="data")
cache.app.command("proxy")(proxy.proxy)
app.add_typer(cache.app, name="cache")
app.add_typer(rollout.app, name="rollout")
app.add_typer(jobs.app, name="jobs")


def main() -> None:
    """The entry point of the `cacherl` command."""
    app()
