"""Upkeep: day partitions made ahead and dropped behind, and calls forgotten after the retention.

There is no default partition: with one, PostgreSQL refuses to detach concurrently. A day that is missing all the same
is made when a row of it comes (:meth:`House.make_days`), and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Any

from callgram_postgres.pools import Job, Pools, translated
from callgram_postgres.queries import queries

PARTITIONED = ("call_events", "telegram_actions", "decisions")
DAYS_AHEAD = 2
AT_ONCE = 10  # calls forgotten by one statement: whoever commits meanwhile waits for what it has written to the log
RESTS = 19.0  # behind each statement that frees something, in the time that it took: who posts meanwhile must not notice
WEAK_KEYS_KEPT = timedelta(hours=1)  # find() forgets them GRACE after the call's end; an hour is far behind that

SQL = queries("house")


def day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


class House:
    """Knows which days have partitions. A part of PostgresStore."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._days: set[date] = set()

    async def make_days(self, moments: Iterable[datetime]) -> None:
        """Make the partitions of the days of ``moments`` unless this process knows them; cheap when it does."""
        missing = {day_of(moment) for moment in moments} - self._days
        if missing:
            async with self._pools.take("rest") as connection:
                with translated():
                    await make_partitions(connection, missing)
            self._days |= missing

    def forget_days(self) -> None:
        """Another process may have dropped a partition: look again before the next row."""
        self._days.clear()

    async def flush(self, job: Job) -> None:
        """Make everything durable that was committed so far."""
        await self._pools.rows(job, SQL["flush"])

    async def keep_house(self, *, now: datetime, retention_days: int) -> None:
        self.forget_days()
        await self.make_days(now + timedelta(days=days) for days in range(-1, DAYS_AHEAD + 1))
        oldest = day_of(now) - timedelta(days=retention_days)
        async with self._pools.take("rest") as fence:
            with translated():
                lock = fence.transaction()
                await lock.start()
                try:
                    if await fence.fetchval(SQL["try_house_lock"]):
                        await self._drop_days(oldest)
                        await self._forget(now, now - timedelta(days=retention_days))
                finally:
                    await lock.rollback()

    async def _drop_days(self, oldest: date) -> float:
        """Detach, then drop: the first waits for readers without holding up writers, the second then has no readers. Index by
        index: while the disk frees a file, everybody's flushes wait. Answers the seconds that the statements took."""
        worked_s = 0.0
        async with self._pools.take("rest") as connection:
            with translated():
                for row in await connection.fetch(SQL["partitions"], list(PARTITIONED)):
                    if _day_of_partition(row["name"]) < oldest:
                        began = monotonic()
                        finish = "FINALIZE" if row["half_gone"] else "CONCURRENTLY"
                        detach = f'ALTER TABLE {row["parent"]} DETACH PARTITION "{row["name"]}" {finish}'
                        await connection.execute(detach, timeout=600)
                        worked_s += monotonic() - began
                for row in await connection.fetch(SQL["lost_partitions"], list(PARTITIONED)):
                    if _day_of_partition(row["name"]) < oldest:
                        began = monotonic()
                        await connection.execute(row["drop_statement"])
                        worked_s += await _rest(began)
        return worked_s

    async def _forget(self, now: datetime, oldest: datetime) -> None:
        """A few calls at a time."""
        n_forgotten = AT_ONCE
        while n_forgotten:
            began = monotonic()
            n_forgotten = await self._pools.value("read", SQL["forget_calls"], oldest, AT_ONCE)
            await _rest(began)
        await self._pools.rows("rest", SQL["forget_weak_keys"], now - WEAK_KEYS_KEPT)
        await self._pools.rows("rest", SQL["forget_limits"], now)


async def _rest(began: float) -> float:
    """Leave the database to others for a while. Answers the seconds since ``began`` without it."""
    took_s = monotonic() - began
    await asyncio.sleep(RESTS * took_s)
    return took_s


async def make_partitions(connection: Any, days: Iterable[date]) -> None:
    """Make and attach the missing partitions of ``days``. Attaching does not wait for writers, as CREATE would."""
    async with connection.transaction():
        await connection.execute(SQL["migration_lock"])
        there = {row["name"] for row in await connection.fetch(SQL["partitions"], list(PARTITIONED))}
        for table in PARTITIONED:
            for day in sorted(days):
                name = f"{table}_{day:%Y%m%d}"
                if name in there:
                    continue
                start = datetime.combine(day, time(), UTC)
                bounds = f"FROM ('{start.isoformat()}') TO ('{(start + timedelta(days=1)).isoformat()}')"
                await connection.execute(f'CREATE TABLE "{name}" (LIKE {table} INCLUDING ALL)')
                await connection.execute(f'ALTER TABLE {table} ATTACH PARTITION "{name}" FOR VALUES {bounds}')


def _day_of_partition(name: str) -> date:
    return datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date()
