"""The naming part of the store: names of numbers, and how often a client called before. The contract: callgram.naming."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from callgram.events import History
from callgram.naming import NameTable
from callgram.shards import part_of
from callgram_postgres.house import House
from callgram_postgres.queries import queries
from callgram_postgres.rows import storable

SQL = queries("naming")
LOOKED_AT = 1000  # calls of a number; who has more is a machine


class Naming(House):
    """A part of PostgresStore."""

    async def names(self, enterprise: str, table: NameTable, numbers: Iterable[str]) -> dict[str, str]:
        wanted = [storable(number) for number in numbers]
        rows = await self._pools.rows("rest", SQL["names"], part_of(enterprise), enterprise, table, wanted)
        return {row["number"]: row["name"] for row in rows}

    async def put_names(self, enterprise: str, table: NameTable, names: Mapping[str, str]) -> None:
        numbers, texts = [storable(number) for number in names], [storable(name) for name in names.values()]
        await self._pools.rows("rest", SQL["put_names"], part_of(enterprise), enterprise, table, numbers, texts)

    async def history(self, enterprise: str, client: str, *, before: datetime) -> History | None:
        if not client:
            return None
        place = (part_of(enterprise), enterprise)
        (row,) = await self._pools.rows("read", SQL["history"], *place, storable(client), before, LOOKED_AT)
        if not row["n_calls"]:
            return None
        return History(n_calls=row["n_calls"], last_at=row["last_at"], last_answered=row["last_result"] == "answered")
