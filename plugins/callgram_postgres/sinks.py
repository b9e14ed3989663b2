"""The sinks' half of the store: the trace in commit order, and the trace of one call."""

from __future__ import annotations

from datetime import datetime

from callgram.shards import part_of
from callgram.trace import Record
from callgram_postgres.house import House
from callgram_postgres.pools import translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import read_cursor, read_record, storable

SQL = queries("sinks")


class Sinks(House):
    """A part of PostgresStore."""

    async def cursor(self, sink: str) -> str:
        return await self._pools.value("rest", SQL["cursor"], sink) or ""

    async def save_cursor(self, sink: str, cursor: str, *, held: str | None = None) -> bool:
        return bool(await self._pools.value("rest", SQL["save_cursor"], sink, cursor, held))

    async def trace(self, after: str, *, limit: int) -> list[Record]:
        """Answers only what a crash cannot take back: transaction numbers that it took would be given to others."""
        xid, number = read_cursor(after)
        async with self._pools.take("read") as connection:  # a sink that catches up must not keep a sender waiting
            with translated():
                rows = await connection.fetch(SQL["trace"], xid, number, limit)
        if rows:
            await self.flush("read")
        return [read_record(row) for row in rows]

    async def waiting_since(self, after: str) -> datetime | None:
        at: datetime | None = await self._pools.value("read", SQL["waiting_since"], *read_cursor(after))
        return at

    async def trace_of(self, enterprise: str, unique_id: str) -> list[Record]:
        place, channel = (part_of(enterprise), enterprise), storable(unique_id)
        found = await self._pools.rows("read", SQL["calls_of_channel"], *place, f"channel:{channel}")
        calls = [row["id"] for row in found]
        rows = await self._pools.rows("read", SQL["trace_of_calls"], *place, calls, channel)
        return [read_record(row) for row in rows]
