"""Fixtures: one Telegram and one program for all tests that leave it alive, and programs of their own for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .browser import browser, kept, opened
from .harness import SUPERUSER, Background, Office, Program, Telegram, new_office, plugins_toml

__all__ = ["browser", "kept", "opened"]  # pytest finds fixtures here
N_OFFICES = 80
MODES = """
[enterprise.6001]
settings = { start = { hold_s = 1.0 } }
[enterprise.6002]
mode = "edit"
[enterprise.6003]
language = "en"
[enterprise.6004]
off = ["dial", "tracer"]
"""


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="session")
def telegram(background: Background) -> Iterator[Telegram]:
    telegram = Telegram(background)
    telegram.start()
    yield telegram
    telegram.stop()


@pytest.fixture(scope="session")
def shared(telegram: Telegram, background: Background) -> Iterator[tuple[Program, dict[str, Office], list[Office]]]:
    """The program that tests share, its enterprises with settings of their own, and its unused enterprises."""
    program = Program(telegram, background, plugins_toml(enterprises=MODES), CALLGRAM_SUPERUSER=str(SUPERUSER))
    try:
        special = {name: new_office(f"600{at}") for at, name in enumerate(("held", "edit", "english", "spare"), 1)}
        unused = [new_office() for _ in range(N_OFFICES)]
        program.start()
        program.add([*special.values(), *unused])
        yield program, special, unused
    finally:
        program.close()


@pytest.fixture
def program(shared: tuple[Program, dict[str, Office], list[Office]]) -> Program:
    """The shared program. Tests keep apart by enterprises of their own, and leave it running."""
    return shared[0]


@pytest.fixture
def office(shared: tuple[Program, dict[str, Office], list[Office]]) -> Office:
    """An enterprise of the shared program that is this test's alone."""
    return shared[2].pop()


@pytest.fixture
def other_office(shared: tuple[Program, dict[str, Office], list[Office]]) -> Office:
    return shared[2].pop()


@pytest.fixture
def special(shared: tuple[Program, dict[str, Office], list[Office]]) -> dict[str, Office]:
    """Enterprises with settings of their own: ``held``, ``edit``, ``english``, ``spare``."""
    return shared[1]


@pytest.fixture(scope="module")
def make_program(
    telegram: Telegram, background: Background, new_dsn: Callable[[], str]
) -> Iterator[Callable[..., Program]]:
    """``make_program(plugins_toml, NAME=value)``: a program of the module's own, not started yet, closed at its end. Its
    database is a new one of the session's PostgreSQL, or with ``embedded=True`` its own."""
    made: list[Program] = []

    def make(plugins: str = "", *, embedded: bool = False, **environment: str) -> Program:
        if not embedded:
            environment = {"CALLGRAM_DATABASE_URL": new_dsn()} | environment
        made.append(Program(telegram, background, plugins or plugins_toml(), **environment))
        return made[-1]

    yield make
    problems: list[BaseException] = []
    for program in made:
        try:
            program.close()
        except BaseException as error:  # noqa: BLE001 - every program is closed, then the first problem is told
            problems.append(error)
    if problems:
        raise problems[0]
