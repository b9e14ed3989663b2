"""The bell on PostgreSQL: NOTIFY on a connection that does not wait for the disk, LISTEN on one of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from callgram.errors import StoreError
from callgram_postgres.house import House
from callgram_postgres.pools import Pools, translated

CHANNEL = "callgram"


class Bell(House):
    """A part of PostgresStore. See callgram.bell."""

    def __init__(self, pools: Pools) -> None:
        super().__init__(pools)
        self._name = secrets.token_hex(8)  # one does not hear oneself

    async def ring(self) -> None:
        await self._pools.rows("plan", "SELECT pg_notify($1, $2)", CHANNEL, self._name)

    async def listen(self, rung: Callable[[], None]) -> None:
        lost = asyncio.Event()

        def heard(_connection: Any, _pid: int, _channel: str, name: str) -> None:
            if name != self._name:
                rung()

        async with self._pools.take("rest") as connection:
            with translated():
                connection.add_termination_listener(lambda _connection: lost.set())
                await connection.add_listener(CHANNEL, heard)
                try:
                    await lost.wait()
                finally:
                    if not lost.is_set():  # then the pool has taken it back
                        await connection.remove_listener(CHANNEL, heard)
        raise StoreError("the connection that listens was lost")
