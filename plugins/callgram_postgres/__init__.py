"""PostgreSQL: the store, the queue and the coordination of callgram.

Connects to CALLGRAM_DATABASE_URL, or runs an embedded server in the data directory. Migrates at start. Refuses a second
``serve`` on one data directory; the administrative commands work beside a running one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from loguru import logger

from callgram import ConfigError, Context, StoreError, hookimpl

if TYPE_CHECKING:
    from callgram import Store
    from callgram_postgres.embedded import EmbeddedPostgres

RETRY_S = 0.5
OWNER_WAIT_S = 15.0  # an administrative command owns the embedded server for a moment; a serve waits for it to end


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``database``: name of the database in the embedded server. ``wait_s``: how long a serve waits for the server of
    CALLGRAM_DATABASE_URL, which the same boot may have started."""

    database: str = "callgram"
    wait_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0


class Postgres:
    """The plugin: owns the embedded server, where one is used, for the life of the process."""

    Settings = Settings

    def __init__(self) -> None:
        self._server: EmbeddedPostgres | None = None
        self._watching: asyncio.Task[None] | None = None
        self._serve_lock: int | None = None

    @hookimpl
    async def open_store(self, ctx: Context) -> Store | None:
        from callgram_postgres.store import connect  # asyncpg: not for `callgram --help`

        if ctx.process.database_url is not None:
            patience_s = ctx.settings.wait_s if ctx.process.serving else 0.0
            return await _connect(ctx.process.database_url.reveal(), patience_s)
        server = await self._start_server(ctx)
        return await connect(server.dsn)

    @hookimpl
    async def shutdown(self, ctx: Context) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._server is not None:
            await self._server.stop()
        if self._serve_lock is not None:
            os.close(self._serve_lock)

    async def _start_server(self, ctx: Context) -> EmbeddedPostgres:
        from callgram_postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError

        data_dir = ctx.process.data_dir
        deadline = time.monotonic() + OWNER_WAIT_S
        while True:
            server = EmbeddedPostgres(data_dir, database=ctx.settings.database)
            try:
                await server.start(as_guest_ok=not ctx.process.serving or ctx.process.worker > 0)
                break
            except EmbeddedPostgresError as error:
                if not ctx.process.serving or _served(data_dir) or time.monotonic() > deadline:
                    raise ConfigError(str(error)) from None
            await asyncio.sleep(0.2)
        self._server = server
        if ctx.process.serving and not ctx.process.worker:
            self._serve_lock = _lock(data_dir)
        if server.owner:
            self._watching = asyncio.create_task(server.watch(), name="postgres")
        return server


async def _connect(dsn: str, patience_s: float) -> Store:
    """Connect to a server that is not ours, and wait for one that does not answer yet. Raises ConfigError."""
    from callgram_postgres.pools import AwayError
    from callgram_postgres.store import connect

    began, told = time.monotonic(), ""
    while True:
        try:
            store = await connect(dsn)
        except StoreError as error:
            waited_s, remedy = time.monotonic() - began, "start that server, or unset it to use the embedded one"
            if not isinstance(error, AwayError) or waited_s >= patience_s:
                waited = f", for {waited_s:.0f} s now" if told else ""
                raise ConfigError(f"CALLGRAM_DATABASE_URL: {error}{waited}; {remedy}") from None
            if str(error) != told:
                told = str(error)
                logger.warning("waiting up to {:.0f} s for the database of CALLGRAM_DATABASE_URL: {}", patience_s, told)
        else:
            if told:
                logger.info("the database is there after {:.1f} s", time.monotonic() - began)
            return store
        await asyncio.sleep(RETRY_S)


def _lock(data_dir: Path) -> int | None:
    """Mark the data directory as served, for the error that a second serve gets."""
    lock = os.open(data_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _served(data_dir: Path) -> bool:
    """Another serve has the data directory: waiting for its server would be in vain."""
    if not (data_dir / "serve.lock").exists():
        return False
    lock = _lock(data_dir)
    if lock is not None:
        os.close(lock)
    return lock is None
