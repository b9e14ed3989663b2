"""A machine boots callgram and its PostgreSQL at once: serve waits for it, within bounds, where waiting helps."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from callgram_postgres.embedded import EmbeddedPostgres

from ..serve import until
from .harness import Background, Program, plugins_toml

IMPATIENT = plugins_toml(postgres="{ wait_s = 1.0 }")
WAITS = "waiting up to 60 s for the database of CALLGRAM_DATABASE_URL: "


class Database:
    """A PostgreSQL that is not callgram's own, started and stopped as a boot does it."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="callgram-pg-"))
        self.server: EmbeddedPostgres

    def start(self) -> str:
        self.server = EmbeddedPostgres(self.base)
        asyncio.run(self.server.start(as_guest_ok=False))
        return self.server.dsn.replace("user=callgram", "user=callgram&password=s3cret")

    def stop(self) -> None:
        asyncio.run(self.server.stop())

    @property
    def pid(self) -> int:
        return int(next(self.base.glob("pg*/postmaster.pid")).read_text().split()[0])


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    yield database
    database.stop()
    shutil.rmtree(database.base, ignore_errors=True)


def lets_nobody_in(dsn: str) -> bool:
    async def refused() -> bool:
        try:
            await (await asyncpg.connect(dsn)).close()
        except asyncpg.CannotConnectNowError:
            return True
        return False

    return asyncio.run(refused())


def test_serve_waits_for_a_server_that_is_not_there_yet(
    database: Database, make_program: Callable[..., Program], background: Background
) -> None:
    dsn = database.start()
    program = make_program(CALLGRAM_DATABASE_URL=dsn)
    session = background.run(asyncpg.connect(dsn))
    os.kill(database.pid, signal.SIGTERM)  # a smart shutdown: it waits for the session, and answers 57P03 meanwhile
    until(lambda: lets_nobody_in(dsn), "it takes no connections")

    program.start(wait=False)
    until(lambda: f"{WAITS}PostgreSQL refused" in program.log, "it says what it waits for")
    assert "57P03" in program.log
    background.run(session.close())
    until(lambda: f"{WAITS}PostgreSQL cannot be reached" in program.log, "it says that the reason is another")
    assert "callgram serves" not in program.log
    database.stop()
    database.start()

    program.until_listening()
    assert "the database is there after" in program.log
    assert program.log.count("waiting up to") == 2, "each reason once"
    assert "s3cret" not in program.log


def test_serve_does_not_wait_for_ever(make_program: Callable[..., Program]) -> None:
    nobody = "postgresql://callgram:s3cret@127.0.0.1:9/callgram"
    refused = make_program(IMPATIENT, CALLGRAM_DATABASE_URL=nobody).cli("serve")
    assert refused.returncode == 1
    assert "waiting up to 1 s" in refused.stderr
    assert "CALLGRAM_DATABASE_URL: PostgreSQL cannot be reached: Connection refused, for 1 s now" in refused.stderr
    assert "start that server" in refused.stderr
    assert "s3cret" not in refused.stderr


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        pytest.param("callgram?", "nosuch?", 'database "nosuch" does not exist', id="no such database"),
        pytest.param("user=callgram", "user=nosuch", 'role "nosuch" does not exist', id="no such user"),
    ],
)
def test_a_server_that_refuses_is_not_waited_for(
    database: Database, make_program: Callable[..., Program], good: str, bad: str, told: str
) -> None:
    dsn = database.start()
    assert good in dsn
    refused = make_program(CALLGRAM_DATABASE_URL=dsn.replace(good, bad)).cli("serve")
    assert refused.returncode == 1
    assert told in refused.stderr
    assert "waiting" not in refused.stderr


def test_a_command_says_at_once_that_nobody_is_there(make_program: Callable[..., Program]) -> None:
    program = make_program(CALLGRAM_DATABASE_URL="postgresql://callgram:s3cret@127.0.0.1:9/callgram")
    refused = program.cli("enterprise", "list", deadline_s=30.0)  # serve would wait 60 s
    assert refused.returncode == 1
    assert refused.stderr.startswith("callgram: CALLGRAM_DATABASE_URL: PostgreSQL cannot be reached")
    assert " s now" not in refused.stderr
