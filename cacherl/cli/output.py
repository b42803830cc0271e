"""What a command prints: one JSON document or readable text on standard output, everything else on standard error; errors as one line."""

import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from stamina.instrumentation import set_on_retry_hooks

from cacherl.errors import AwayError, CacheRLError, InputError, NotFoundError

P = ParamSpec("P")
R = TypeVar("R")

DONE, FAILED, USAGE, AWAY, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes (contracts §7)."""
UNBOUNDED = 10_000


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """One JSON document on standard output."""
    data = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    # A pipe has no width: nothing is cut or wrapped there, so that what is searched for is there whole.
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table)


def exit_code(error: CacheRLError) -> int:
    """2 for wrong input, 3 where a service is away, 1 for the rest."""
    if isinstance(error, InputError | NotFoundError):
        return USAGE
    return AWAY if isinstance(error, AwayError) else FAILED


def speaks_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose known errors become one line on standard error and an exit code, never a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        set_on_retry_hooks([])  # a retry is logged on standard output by default, where the one document belongs
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return command(*args, **kwargs)
        except CacheRLError as error:
            _complain(error.detail, *(_field(e) for e in error.errors[:5]))
            raise typer.Exit(exit_code(error)) from error
        except ValidationError as error:
            _complain(f"not valid: {error.title}", *(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]))
            raise typer.Exit(USAGE) from error
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            _complain(f"{error.filename}: {error.strerror}")
            raise typer.Exit(USAGE) from error
        except KeyboardInterrupt as error:
            _complain("interrupted; what was done is kept")
            raise typer.Exit(INTERRUPTED) from error

    return run


def _interrupt(*_: object) -> None:
    """SIGTERM ends a command as Ctrl-C does: what it started is stopped, what was done is kept."""
    raise KeyboardInterrupt


def _field(error: dict[str, Any]) -> str:
    where = error.get("pointer") or (f"line {error['line']}" if error.get("line") else "")
    return f"{where}: {error.get('detail', '')}" if where else str(error.get("detail", ""))


def _complain(*lines: str) -> None:
    first, *rest = lines
    Console(stderr=True).print(f"[red]cacherl:[/] {escape(first)}", highlight=False, soft_wrap=True)
    for line in rest:
        if line and line != first:
            Console(stderr=True).print(f"  {escape(line)}", highlight=False, soft_wrap=True)
