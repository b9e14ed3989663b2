"""The naming part of the store in memory. The contract: callgram.naming."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from callgram.calls.story import Direction, Result
from callgram.events import History
from callgram.naming import NameTable
from callgram.testing.memory_data import Database


class MemoryNaming:
    """A part of MemoryStore."""

    _db: Database

    async def names(self, enterprise: str, table: NameTable, numbers: Iterable[str]) -> dict[str, str]:
        known = self._db.names.get((enterprise, table), {})
        return {number: known[number] for number in numbers if number in known}

    async def put_names(self, enterprise: str, table: NameTable, names: Mapping[str, str]) -> None:
        known = self._db.names.setdefault((enterprise, table), {})
        known.update(names)
        for number in [number for number, name in known.items() if not name]:
            del known[number]

    async def history(self, enterprise: str, client: str, *, before: datetime) -> History | None:
        rows = [
            stored.row
            for (of, _), stored in self._db.calls.items()
            if of == enterprise and stored.absorbed_into is None and stored.row.unique_id
            if client and stored.row.client == client and stored.row.direction == Direction.INCOMING
            if stored.row.started_at < before
        ]
        if not rows:
            return None
        last = max(rows, key=lambda row: row.started_at)
        return History(n_calls=len(rows), last_at=last.started_at, last_answered=last.result == Result.ANSWERED)
