"""What several kinds of tests share: one real PostgreSQL for the session, and a fresh database of it for each test."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of the server's superuser, with ``{user}`` and ``{database}`` left to be filled in."""
    from callgram_postgres.cluster import DEFAULTS
    from callgram_postgres.embedded import EmbeddedPostgres

    # Not below tmp_path: pytest closes that to the account that root hands the server to.
    data_dir = Path(tempfile.mkdtemp(prefix="callgram-pg-"))
    server = EmbeddedPostgres(data_dir, database="postgres", user="postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFAULTS, "max_connections", "300")  # several programs at once have a database of it
        asyncio.run(server.start(as_guest_ok=False))
    try:
        dsn = server.dsn.replace("/postgres?", "/{database}?").replace("user=postgres", "user={user}")
        _on(dsn, "CREATE ROLE callgram LOGIN")
        yield dsn
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def new_dsn(postgres_server: str) -> Callable[[], str]:
    """``new_dsn()``: the DSN of a fresh, empty database, for a user who owns it and nothing else."""

    def create() -> str:
        name = f"test_{next(_NUMBERS)}"
        _on(postgres_server, f"CREATE DATABASE {name} OWNER callgram")
        return postgres_server.format(user="callgram", database=name)

    return create


@pytest.fixture
def postgres_dsn(postgres_server: str, new_dsn: Callable[[], str]) -> Iterator[str]:
    dsn = new_dsn()
    yield dsn
    _on(postgres_server, f"DROP DATABASE {dsn.partition('?')[0].rpartition('/')[2]} WITH (FORCE)")


def _on(server: str, sql: str) -> None:
    asyncio.run(_execute(server.format(user="postgres", database="postgres"), sql))


async def _execute(dsn: str, sql: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
