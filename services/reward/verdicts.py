"""The judge cache: ratings by content, each tenant's own. The first verdict on a key stands, so re-scoring gives what scoring gave."""

from collections.abc import Sequence
from pathlib import Path

from services.kit.postgres import Database, load_queries

QUERIES = load_queries(Path(__file__).with_name("queries.sql"))


class Verdicts:
    """Ratings kept in Postgres. `tenant` is the caller's, never a body's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant: str, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The ratings that are known, by key."""
        if not keys:
            return {}
        async with self._database.tenant(tenant) as connection:
            rows = await (await connection.execute(QUERIES.find_verdicts, {"keys": list(keys)})).fetchall()
        return {bytes(row["key"]): row["rating"] for row in rows}

    async def keep(self, tenant: str, key: bytes, *, judge: str, model: str, rating: int, tokens: int) -> int:
        """Stores a rating; returns the one that stands, which is an earlier one where there was one."""
        values = {"key": key, "judge": judge, "model": model, "rating": rating, "tokens": tokens}
        async with self._database.tenant(tenant) as connection:
            row = await (await connection.execute(QUERIES.keep_verdict, values)).fetchone()
        assert row is not None, "an upsert returns its row"
        return row["rating"]
