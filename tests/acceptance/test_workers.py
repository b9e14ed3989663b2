"""A serve with several workers: to hosts, readers and operators it is one."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable

import pytest

from callgram.replay import Post
from callgram.shards import part_of

from ..serve import until, users
from .harness import Office, Program, Telegram, new_office
from .recordings import as_new_call, is_final, scenario

WORKERS = 3
_calls = itertools.count(1)


def new_offices() -> list[Office]:
    """Two: one is the first worker's, one the last one's."""
    fresh = [new_office() for _ in range(40)]
    return [
        next(office for office in fresh if part_of(office.number) < 16),
        next(office for office in fresh if part_of(office.number) >= 48),
    ]


@pytest.fixture(scope="module")
def program(make_program: Callable[..., Program]) -> Program:
    program = make_program(embedded=True, CALLGRAM_WORKERS=str(WORKERS), CALLGRAM_NODE="lead")
    program.expected_errors = ["the serve has ended; so does this worker"]
    program.start()
    return program


@pytest.fixture
def running(program: Program) -> Program:
    if program.process is None:
        program.start()
    return program


def others(program: Program, options: str = "") -> list[int]:
    """The processes of the other workers, or of those that were started with ``options``."""
    return [int(line.split()[0]) for line in users(program.base) if "callgram\\x00worker" in line and options in line]


def told(program: Program, name: str) -> float:
    """A metric, over all its labels."""
    text = program.get("/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


def missed() -> list[Post]:
    at = next(_calls)
    return as_new_call(scenario("incoming-missed"), f"37529333{at:04}", 1_757_900_000 + at)


def play(program: Program, offices: list[Office]) -> None:
    program.play([(office, missed()) for office in offices])
    program.settled(*offices)


def test_each_worker_serves_its_own_enterprises_and_the_answer_is_one(running: Program, telegram: Telegram) -> None:
    offices = new_offices()
    running.add(offices)
    planned, called = told(running, "callgram_events_planned_total"), told(running, "callgram_telegram_calls_total")
    play(running, offices)
    for office in offices:
        for chat in office.chats:
            [text] = telegram.texts(office.bot, chat)
            assert is_final(text)
        assert [line.what for line in running.trace(office) if line.what == "hangup"], "the one who feeds sinks was told"
    rows = running.sql("SELECT bot_id, owner FROM bot_lease WHERE bot_id > 0")
    owners = dict(rows)
    assert owners[offices[0].bot] != owners[offices[1].bot]
    assert set(owners.values()) <= {"lead", "lead/1", "lead/2"}
    n_events = running.sql("SELECT count(*) FROM call_events WHERE enterprise = ANY($1)", [one.number for one in offices])[0][0]
    assert told(running, "callgram_events_planned_total") - planned == n_events, "of all workers"
    assert told(running, "callgram_telegram_calls_total") > called
    report = running.get("/health/ready").json
    assert report["workers"] == {"1": "ready", "2": "ready"}


def test_bots_of_enterprises_that_are_added_later_find_their_worker(running: Program, telegram: Telegram) -> None:
    offices = [new_office() for _ in range(6)]
    running.add(offices)
    play(running, offices)
    for office in offices:
        assert all(is_final(telegram.texts(office.bot, chat)[0]) for chat in office.chats)


def test_a_serve_that_is_killed_takes_its_workers_with_it_and_nothing_is_lost(running: Program, telegram: Telegram) -> None:
    offices = new_offices()
    running.add(offices)
    posts = [(office, missed()) for office in offices]
    running.play([(office, call[:1]) for office, call in posts])
    assert len(others(running)) == WORKERS - 1
    running.kill()
    until(lambda: not others(running), "no worker is left", 5)
    running.start()
    running.play([(office, call[1:]) for office, call in posts])
    running.settled(*offices)
    for office in offices:
        for chat in office.chats:
            assert [is_final(text) for text in telegram.texts(office.bot, chat)].count(True) == 1


def test_a_worker_that_dies_ends_the_serve_which_says_so(running: Program) -> None:
    [victim] = others(running, "--number\\x001\\x00")
    os.kill(victim, signal.SIGKILL)
    assert running.process is not None
    assert running.process.wait(20) == 1
    running.process = None
    assert "callgram: worker 1 ended by itself with -9" in running.log
    until(lambda: not users(running.base), "no process is left")


def test_sigterm_to_all_of_them_as_systemd_does_it_ends_them_in_order(running: Program) -> None:
    said = len(running.log)
    for pid in others(running):
        os.kill(pid, signal.SIGTERM)
    assert running.stop() == 0
    assert running.log[said:].splitlines()[-1].endswith("callgram has stopped; nothing was in flight")
    assert not others(running)


def test_a_serve_that_is_killed_while_it_stops_leaves_no_worker(running: Program) -> None:
    """A worker that was told to finish and cannot: its database went with the serve."""
    victims, said = others(running), len(running.log)
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    process = running.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    until(lambda: "stopping: requests first" in running.log[said:], "it stops")
    running.kill()
    for pid in victims:
        os.kill(pid, signal.SIGCONT)
    until(lambda: not users(running.base), "no process is left")


def test_workers_without_anything_to_share_are_refused(program: Program) -> None:
    refused = program.cli("serve", "--roles", "ingest,sink", CALLGRAM_WORKERS="2")
    assert refused.returncode == 1
    assert "--workers" in refused.stderr
    assert program.cli("serve", CALLGRAM_WORKERS="0").returncode == 1
