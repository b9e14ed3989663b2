"""Connections to PostgreSQL: one pool for each job, so that none waits for another, and errors in callgram's words.

Pools mend themselves: a connection that a restart of the server broke is replaced when it is next asked for. No error
from here holds anything of the DSN.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import asyncpg

from callgram.errors import ConfigError, StoreError

Job = Literal["ingest", "plan", "send", "read", "rest"]

SIZES: dict[Job, int] = {"ingest": 4, "plan": 4, "send": 3, "read": 3, "rest": 5}  # ingest: more than 16 are slower, not faster
NOT_YET = frozenset({"57P01", "57P02", "57P03", "53300"})  # shutting down, crashed, starting up, too many clients
UNREADABLE = "the DSN of PostgreSQL cannot be read; write postgresql://user:password@host/database"
COMMAND_S = 30.0
CONNECT_S = 10.0

DURABLE = {"application_name": "callgram", "timezone": "UTC", "jit": "off", "synchronous_commit": "on"}
# The statistics of a queue are always old: every query of a hot path has an index that fits, and keeps to it.
BY_INDEX = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "idle_in_transaction_session_timeout": "5s",  # a frozen process must not keep an enterprise or a card
}
# A walk in the order of an index: sorts look as cheap while a table is empty, and that plan is kept.
IN_ORDER = {"enable_sort": "off", "enable_incremental_sort": "off"}
# What a crash takes from the planner it plans again, and a sender's claim makes durable what it was planned from.
SETTINGS: dict[Job, dict[str, str]] = {
    "ingest": DURABLE | BY_INDEX,
    "plan": DURABLE | BY_INDEX | IN_ORDER | {"synchronous_commit": "off"},
    "send": DURABLE | BY_INDEX,
    "read": DURABLE | BY_INDEX,
    "rest": DURABLE,
}


class AwayError(StoreError):
    """PostgreSQL does not answer, or not yet: waiting may help, which it does not where it refuses."""


class _Translated:
    """Turns what asyncpg and the operating system raise into :class:`StoreError`, without rows or secrets."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and (known := _translation(error)) is not None:
            raise known from None


_TRANSLATED = _Translated()  # a generator for each statement would cost more than its part


def translated() -> _Translated:
    """``with translated():`` around whatever talks to PostgreSQL."""
    return _TRANSLATED


def _translation(error: BaseException) -> Exception | None:
    match error:
        case asyncpg.ClientConfigurationError():
            return ConfigError(UNREADABLE)
        case asyncpg.DataError():
            return StoreError(f"PostgreSQL cannot hold a value: {type(error).__name__}")  # the message shows it
        case asyncpg.PostgresError():
            # Only the message: DETAIL shows rows.
            text = f"PostgreSQL refused: {error.args[0] if error.args else ''} ({error.sqlstate})"
            away = isinstance(error, asyncpg.PostgresConnectionError) or error.sqlstate in NOT_YET
            return AwayError(text) if away else StoreError(text)
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():  # the latter where a server vanishes
            return AwayError(f"the connection to PostgreSQL is not usable: {error}")
        case TimeoutError():
            return AwayError("PostgreSQL did not answer in time; see to the database")
        case PermissionError() | ssl.SSLError():
            return StoreError(f"PostgreSQL cannot be reached: {error.strerror or type(error).__name__}")
        case OSError():
            return AwayError(f"PostgreSQL cannot be reached: {error.strerror or type(error).__name__}")
    return None


class Pools:
    """The pools, by job. ``async with pools.take(job)`` lends a connection."""

    def __init__(self, pools: dict[Job, Any]) -> None:
        self._pools = pools

    @classmethod
    async def open(cls, dsn: str) -> Pools:
        """Connect once for each job. Raises ConfigError when the DSN cannot be read, StoreError when it is refused,
        AwayError when nobody answers."""
        pools = cls({job: await _pool(dsn, job) for job in SIZES})
        try:
            for job in SIZES:
                await pools.value(job, "SELECT 1")
        except ValueError:
            raise ConfigError(UNREADABLE) from None
        except BaseException:
            await pools.close()
            raise
        return pools

    @asynccontextmanager
    async def take(self, job: Job) -> AsyncIterator[Any]:
        """Lend a connection. Only the pool's own errors are translated: what the borrower raises passes as it is."""
        pool = self._pools[job]
        with translated():
            connection = await pool.acquire(timeout=CONNECT_S)
        try:
            yield connection
        finally:
            with suppress(StoreError), translated():  # what cannot be given back is replaced by the pool
                await pool.release(connection, timeout=CONNECT_S)

    async def rows(self, job: Job, sql: str, *args: Any) -> list[Any]:
        async with self.take(job) as connection:
            with translated():
                found: list[Any] = await connection.fetch(sql, *args)
                return found

    async def value(self, job: Job, sql: str, *args: Any) -> Any:
        """Answer the first column of the first row, ``None`` without one."""
        async with self.take(job) as connection:
            with translated():
                return await connection.fetchval(sql, *args)

    async def close(self) -> None:
        """Close what is idle and give what is busy a few seconds; idempotent."""
        for pool in self._pools.values():
            try:
                with translated():
                    await _close(pool)
            except StoreError:
                pool.terminate()


async def _close(pool: Any) -> None:
    async with asyncio.timeout(5.0):
        await pool.close()


def _pool(dsn: str, job: Job) -> Any:
    """Without a least size: asyncpg would keep to it by itself, and log tracebacks while the server is away."""
    return asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=SIZES[job],
        max_inactive_connection_lifetime=0,
        reset=_nothing_to_reset,
        command_timeout=COMMAND_S,
        timeout=CONNECT_S,
        server_settings=SETTINGS[job],
    )


async def _nothing_to_reset(_connection: Any) -> None:
    """asyncpg has rolled back already, and nothing of ours changes a session: the usual RESET ALL is a round trip."""
