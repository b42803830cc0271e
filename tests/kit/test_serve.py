import ast
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from cacherl.errors import UsageError
from services.kit import serve
from services.local.scratch import DatabaseDsns

ROOT = Path(serve.__file__).parent.parent
RUNNERS = {"execute", "executemany", "exec_driver_sql", "stream", "copy"}
CONNECTORS = {
    "psycopg.connect",
    "psycopg.Connection.connect",
    "psycopg.AsyncConnection.connect",
    "AsyncConnection.connect",
    "Connection.connect",
}
MAY_CONNECT = ("kit/postgres.py", "kit/quick.py", "kit/keys.py", "kit/migrate.py", "kit/roles.py", "local/")


def test_a_service_that_is_not_there_says_so() -> None:
    with pytest.raises(UsageError, match="lacks the service nothing"):
        serve.load("nothing")


def test_missing_settings_are_named_and_end_the_command() -> None:
    environment = {"PATH": "/usr/bin:/bin", "CACHERL_PORT": "many"}
    command = [sys.executable, "-m", "services.kit.serve", "reward"]
    ended = subprocess.run(command, env=environment, cwd=ROOT.parent, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    for part in ("CACHERL_DATABASE_URL: Field required", "CACHERL_PEPPER", "CACHERL_PORT"):
        assert part in ended.stderr
    assert "Traceback" not in ended.stderr


def opens_a_connection(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "psycopg_pool" and any(alias.name.endswith("ConnectionPool") for alias in node.names)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in CONNECTORS


def builds_a_statement(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RUNNERS and node.args):
        return False
    statement = node.args[0]
    return isinstance(statement, ast.JoinedStr) or (isinstance(statement, ast.BinOp) and isinstance(statement.op, ast.Mod))


def test_cursors_come_from_the_kit_and_statements_are_constants() -> None:
    """A connection of one's own may belong to no tenant or leak one; a statement built from text may be the caller's text."""
    offenders = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if builds_a_statement(node) or (opens_a_connection(node) and not name.startswith(MAY_CONNECT)):
                offenders.append(f"{name}: {ast.unparse(node)}")
    assert offenders == []


def test_the_app_reads_no_table_without_row_level_security(database_dsns: DatabaseDsns) -> None:
    with psycopg.connect(database_dsns.owner) as connection:
        open_tables = connection.execute(
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('kit', 'auth', 'cache', 'rollout', 'reward', 'trainer') and c.relkind in ('r', 'p')"
            " and c.relname <> 'alembic_version' and not (c.relrowsecurity and c.relforcerowsecurity)"
            " and has_table_privilege('cacherl_app', c.oid, 'select')"
        ).fetchall()
    assert open_tables == []
