"""Help, exit codes, and errors that are one line."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
import pytest
import typer

from cacherl import __version__
from cacherl.cli.app import app
from tests.cli.conftest import Cli, Command

COMMANDS = {
    "demo", "run", "up", "down", "status", "score", "data inspect", "cache list", "cache ingest", "cache lookup", "cache stats",
    "cache coverage", "rollout verify", "jobs list", "jobs show", "jobs cancel", "jobs retry", "jobs watch",
}  # fmt: skip


def _commands(command: click.Command, path: str = "") -> Iterator[str]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path
        return
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}".strip())


FOUND = sorted(_commands(typer.main.get_command(app)))


def test_no_command_went_away():
    assert set(FOUND) >= COMMANDS


@pytest.mark.parametrize("path", FOUND)
def test_every_command_explains_itself(cli: Cli, path: str):
    ran = cli(*path.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    said = [line.strip(" │╭╮╰╯─") for line in ran.out.splitlines()]
    said = [line for line in said if line and not line.startswith(("Usage:", "Options", "Arguments", "--help"))]
    assert said, ran.out
    assert said[0][0].isupper()
    assert " " in said[0], f"`cacherl {path}` says nothing of what it does"


@pytest.mark.parametrize("group", ["data", "cache", "rollout", "jobs"])
def test_a_group_alone_lists_its_commands(cli: Cli, group: str):
    ran = cli(group)
    assert "Commands" in ran.out + ran.err


def test_the_version(cli: Cli):
    ran = cli("--version")
    assert (ran.code, ran.out.strip()) == (0, __version__)


def test_the_library_alone_is_enough_to_start_it():
    extras = ("matplotlib", "numpy", "torch", "fastapi", "psycopg", "structlog", "services", "demo")
    code = f"import sys, cacherl.cli; print([name for name in {extras} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


MISSING = [
    ("score", "nothing.episodes.jsonl"),
    ("rollout", "verify", "nothing.episodes.jsonl"),
    ("data", "inspect", "nothing.jsonl"),
    ("run", "--data", "nothing.jsonl", "--out", "out"),
    ("run", "--plan", "nothing.json", "--out", "out"),
    ("cache", "ingest", "c", "nothing.jsonl"),
]


@pytest.mark.parametrize("arguments", MISSING, ids=" ".join)
def test_a_missing_file_is_named_in_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...]):
    ran = cli(*arguments)
    assert ran.code == 2
    assert "nothing" in ran.complaint
    assert list(tmp_path.iterdir()) == [], "nothing is begun"


WRONG = [
    (("score", "bad.jsonl"), "line 1"),
    (("rollout", "verify", "bad.episodes.jsonl.zst"), "damaged"),
    (("score", "bad.episodes.jsonl.zst"), "damaged"),
    (("score", "."), "directory"),
    (("data", "inspect", "."), "no such file"),
    (("data", "inspect", "bad.jsonl"), "not JSON"),
    (("data", "inspect", "logs[old].jsonl"), "logs[old].jsonl"),
    (("score", "bad.jsonl", "--preset", "generous"), "robust or paper"),
    (("cache", "ingest", "c", "bad.jsonl", "--preset", "generous"), "robust or paper"),
    (("cache", "ingest", "c", "bad.jsonl"), "not JSON"),
    (("cache", "lookup", "c", "t", "{x", "--scenario", "s"), "not JSON"),
    (("cache", "lookup", "c", "t", "[1]", "--scenario", "s"), "not valid"),
    (("run", "--out", "out"), "--data"),
    (("run", "--data", "bad.jsonl", "--plan", "bad.jsonl", "--out", "out"), "--plan"),
    (("run", "--data", "bad.jsonl", "--format", "odd", "--out", "out"), "openai_chat"),
    (("run", "--plan", "bad.jsonl", "--out", "out"), "not valid"),
    (("run", "--data", "bad.jsonl", "--annotations", "bad.jsonl", "--out", "out"), "annotations by tool name"),
    (("run", "--plan", "bad.jsonl", "--annotations", "bad.jsonl", "--out", "out"), "--annotations"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_wrong_input_is_one_line_and_exit_code_2(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], told: str):
    for name in ("bad.jsonl", "bad.episodes.jsonl.zst", "logs[old].jsonl"):
        (tmp_path / name).write_text("this is no record\n")
    ran = cli(*arguments)
    assert ran.code == 2
    assert told in ran.complaint
    assert not (tmp_path / "out").exists(), "nothing is begun"


@pytest.mark.parametrize("arguments", [("score",), ("cache", "lookup", "c"), ("status", "--odd"), ("nothing",)], ids=" ".join)
def test_wrong_usage_is_exit_code_2(cli: Cli, arguments: tuple[str, ...]):
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: cacherl" in ran.err


NEED_A_SYSTEM = [
    ("status",),
    ("status", "--json"),
    ("cache", "list", "--json"),
    ("cache", "stats", "c"),
    ("cache", "coverage", "c"),
    ("cache", "lookup", "c", "t", "{}", "--scenario", "s"),
    ("jobs", "list", "--json"),
    ("jobs", "show", "job_1"),
    ("jobs", "cancel", "job_1"),
    ("jobs", "retry", "job_1"),
    ("jobs", "watch", "job_1"),
]


@pytest.mark.parametrize("arguments", NEED_A_SYSTEM, ids=" ".join)
def test_without_a_system_it_says_how_to_start_one(cli: Cli, arguments: tuple[str, ...]):
    ran = cli(*arguments)
    assert ran.code == 3
    assert "cacherl up" in ran.complaint


def test_without_a_system_there_is_nothing_to_stop(cli: Cli):
    ran = cli("down")
    assert (ran.code, ran.out) == (0, "")
    assert "no system runs" in ran.err


def test_a_runtime_file_that_cannot_be_read_is_named(cli: Cli, tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/runtime.json").write_text("{")
    ran = cli("status", "--home", "home")
    assert ran.code == 2
    assert "runtime.json" in ran.complaint


def test_a_stale_runtime_file_never_stops_who_has_its_pid_now(cli: Cli, tmp_path: Path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / "lock").touch()
        (tmp_path / "runtime.json").write_bytes(orjson.dumps({"urls": {}, "key": "k", "pid": bystander.pid}))
        ran = cli("down", "--home", tmp_path)
        assert (ran.code, bystander.poll()) == (0, None)
        assert "no system runs" in ran.err
    finally:
        bystander.kill()
        bystander.wait()


OWNER = """
import fcntl, os, pathlib, signal, sys, time
home = pathlib.Path(sys.argv[1])
lock = (home / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
def stop(*_):
    (home / "runtime.json").unlink()
    time.sleep(0.5)  # its parts end
    (home / "ended").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
(home / "runtime.json").write_text('{"urls": {}, "key": "k", "pid": %d}' % os.getpid())
print(flush=True)
time.sleep(60)
"""


def test_down_returns_when_the_home_is_free_again(cli: Cli, tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            owner.stdout.readline()
            ran = cli("down", "--home", tmp_path)
            assert (ran.code, (tmp_path / "ended").exists()) == (0, True)
            assert "stopped" in ran.err
        finally:
            owner.kill()


def test_services_that_do_not_answer_are_listed_and_the_exit_code_is_3(cli: Cli):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    names = ("cache_api", "rollout", "reward", "trainer")
    urls = {f"CACHERL_{name.upper()}_URL": url for name in names}
    ran = cli("status", "--json", CACHERL_KEY="k", **urls)
    assert (ran.code, ran.err) == (3, "")
    assert ran.document["schema"] == "cacherl.status/1"
    assert [service["name"] for service in ran.document["services"]] == list(names)
    assert all("does not answer" in service["state"] for service in ran.document["services"])


async def test_a_service_that_is_away_leaves_standard_output_alone(command: Command):
    ran = await command("cache", "list", "--json", CACHERL_KEY="k", CACHERL_CACHE_API_URL="http://127.0.0.1:1")
    assert ran.code == 3
    assert "does not answer" in ran.complaint


async def test_the_checkout_is_found_from_any_folder(command: Command, tmp_path: Path):
    (tmp_path / "file").touch()
    ran = await command("up", "--home", tmp_path / "file")
    assert ran.code == 2
    assert "cannot be written" in ran.complaint
