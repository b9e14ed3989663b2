"""Fixtures of the tests that need a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from callgram_postgres.store import PostgresStore, connect

Scenario = Callable[[PostgresStore, Any], Awaitable[None]]


@pytest.fixture
def play(postgres_dsn: str) -> Callable[[Scenario], None]:
    """Run a scenario with a store, and a plain connection to its database."""

    async def run(scenario: Scenario) -> None:
        store = await connect(postgres_dsn)
        connection = await asyncpg.connect(postgres_dsn)
        try:
            await scenario(store, connection)
        finally:
            await connection.close()
            await store.close()

    return lambda scenario: asyncio.run(run(scenario))
