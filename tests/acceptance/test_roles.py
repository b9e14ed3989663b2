"""Processes with different roles on one PostgreSQL: together they are one callgram, and wake each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ..serve import until
from .harness import Background, Program, Telegram, new_office, plugins_toml
from .recordings import scenario


@pytest.fixture
def programs(telegram: Telegram, background: Background, postgres_dsn: str) -> Iterator[tuple[Program, Program]]:
    """One that takes events in and plans, one that sends and feeds the sinks."""
    with ExitStack() as stack:
        started = []
        for node, roles in (("near", "ingest,plan"), ("far", "send,sink")):
            environment = {"CALLGRAM_DATABASE_URL": postgres_dsn, "CALLGRAM_NODE": node}
            program = Program(telegram, background, plugins_toml(), **environment)
            stack.callback(program.close)
            program.start("--roles", roles, ready=False)
            started.append(program)
        yield started[0], started[1]


def test_an_event_that_one_takes_is_shown_and_traced_by_the_other(
    programs: tuple[Program, Program], telegram: Telegram
) -> None:
    near, far = programs
    office = new_office()
    near.add([office])
    for program in programs:
        until(lambda program=program: program.get("/health/ready").json["bots"] == {"used": 1, "owned": 1}, "it sends")
    near.play([(office, scenario("incoming-missed"))])
    for chat in office.chats:
        until(
            lambda chat=chat: [text for text in telegram.texts(office.bot, chat) if text.startswith("❌")],
            "the call was missed",
        )
    until(lambda: [line for line in far.trace(office) if line.what == "hangup"], "the trace is with who feeds sinks")
    assert near.trace_text(office) == ""
    assert near.post("start", {"Token": "unknown"}).status == 403
    assert far.post("start", {"Token": office.token, "UniqueId": "1.1"}).status in {404, 405}, "it takes no events"
