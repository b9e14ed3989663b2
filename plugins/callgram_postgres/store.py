"""The store on PostgreSQL: callgram's state, queue and coordination in one database. The contract: callgram.store.

Each part of the contract has its module: bell, ingest, planning, sending, sinks, reading, admin, house. SQL lies in ``sql/``, the
tables in ``migrations/``. Works on PostgreSQL 14 and later, where ``DETACH CONCURRENTLY`` came.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from callgram_postgres.admin import Admin
from callgram_postgres.bell import Bell
from callgram_postgres.house import DAYS_AHEAD
from callgram_postgres.ingest import Ingest
from callgram_postgres.migrate import migrate
from callgram_postgres.naming import Naming
from callgram_postgres.planning import Planning
from callgram_postgres.pools import Pools
from callgram_postgres.reading import Reading
from callgram_postgres.sending import Sending
from callgram_postgres.sinks import Sinks


class PostgresStore(Admin, Bell, Ingest, Planning, Sending, Sinks, Reading, Naming):
    """Made by :func:`connect`."""

    async def close(self) -> None:
        await self._pools.close()

    async def ping(self) -> None:
        await self._pools.value("rest", "SELECT 1")


async def connect(dsn: str) -> PostgresStore:
    """Open the database, bring its tables up to date, and make the partitions of the days around today.

    Raises ConfigError when the DSN cannot be read, StoreError when the database refuses, AwayError when it does not answer.
    """
    pools = await Pools.open(dsn)
    try:
        await migrate(pools)
        store = PostgresStore(pools)
        now = datetime.now(UTC)
        await store.make_days(now + timedelta(days=days) for days in range(-1, DAYS_AHEAD + 1))
    except BaseException:
        await pools.close()
        raise
    return store
