"""A throw-away Postgres for tests and benchmarks: prepared, migrated, gone with the process that asked for it.

`python -m services.local.scratch FOLDER PID` starts the server in FOLDER, makes the template databases, writes
`scratch.json` by rename and stays until PID has ended or SIGTERM comes; then the server's files go. Several processes
may share one: a fresh database is a copy of the template. fsync is off: a killed process loses nothing by that, only a
killed machine.
"""

import json
import os
import secrets
import signal
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from services.kit import roles
from services.kit.migrate import COMPONENTS, migrate
from services.local.postgres import PostgresServer

FILE = "scratch.json"
SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "400", "shared_buffers": "64MB"}


@dataclass(frozen=True, slots=True)
class DatabaseDsns:
    """Connection strings to one database, by role."""

    admin: str = field(repr=False)
    owner: str = field(repr=False)
    app: str = field(repr=False)
    indexer: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scratch:
    """A running throw-away server."""

    admin: str = field(repr=False)
    passwords: dict[str, str] = field(repr=False)
    broken: dict[str, str]
    """Component → why its migrations failed; its tables are missing, the others' are there."""

    def new_database(self) -> tuple[str, DatabaseDsns]:
        """A fresh migrated database: its name and connection strings."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.admin, autocommit=True) as connection:
            roles.ensure_database(connection, name, roles.OWNER, template=roles.DATABASE)
        return name, DatabaseDsns(
            make_conninfo(self.admin, dbname=name), *(self._dsn(role, name) for role in (roles.OWNER, roles.APP, roles.INDEXER))
        )

    def new_queue(self) -> tuple[str, str]:
        """A fresh database with pgmq: its name and the jobs role's connection string."""
        name = f"jobs_{secrets.token_hex(6)}"
        with psycopg.connect(self.admin, autocommit=True) as connection:
            roles.ensure_database(connection, name, roles.JOBS, template=roles.JOBS_DATABASE)
        return name, self._dsn(roles.JOBS, name)

    def drop(self, name: str) -> None:
        """Drops a database and whatever is connected to it."""
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _dsn(self, role: str, database: str) -> str:
        return make_conninfo(self.admin, user=role, password=self.passwords[role], dbname=database)


def prepare(server: PostgresServer) -> Scratch:
    """Roles and migrated templates on a running server; a component whose migration fails does not keep the others from theirs."""
    passwords = {role: secrets.token_urlsafe(24) for role in roles.ROLES}
    roles.prepare_server(server.dsn(), passwords)
    owner = server.dsn(user=roles.OWNER, password=passwords[roles.OWNER], database=roles.DATABASE)
    broken: dict[str, str] = {}
    for component in COMPONENTS:
        try:
            migrate(owner, components=(component,))
        except Exception as error:  # whatever a component's SQL does, its own tests shall say it
            broken[component] = f"{type(error).__name__}: {error}"
    return Scratch(server.dsn(), passwords, broken)


def read(folder: Path) -> Scratch:
    """What `scratch.json` in this folder describes."""
    return Scratch(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def main() -> None:
    """The command."""
    folder, owner = Path(sys.argv[1]), psutil.Process(int(sys.argv[2]))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = PostgresServer(folder, settings=SETTINGS)
    try:
        server.start()
        partial = folder / f"{FILE}.{os.getpid()}"
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(prepare(server))), encoding="utf-8")
        partial.rename(folder / FILE)
        while not ended.wait(0.2) and owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
            pass
    finally:
        server.remove()


if __name__ == "__main__":
    main()
