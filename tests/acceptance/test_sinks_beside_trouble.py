"""Sinks of the running program: sent back while they are fed, and beside full disks, lost directories and bad plugins."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from callgram_tracer import Line, LineError, parse_line

from ..serve import until
from ..third_party.installed import install
from .harness import Office, Program, new_office, plugins_toml
from .recordings import as_new_call, scenario

PAUSED = r"sink tracer does not take the record|plugin tracer, hook on_\w+ raised: \w+: cannot write"
N_ENTERPRISES = 300  # more than twice as many as the tracer may have open
_serial = iter(range(1, 1000))


@pytest.fixture(scope="module")
def running(make_program: Callable[..., Program]) -> Program:
    program = make_program(plugins_toml())
    program.expected_errors = [PAUSED]
    program.start()
    return program


@pytest.fixture
def office(running: Program) -> Office:
    office = new_office()
    running.add([office])
    return office


@pytest.fixture
def other_office(running: Program) -> Office:
    other = new_office()
    running.add([other])
    return other


def play(program: Program, office: Office, *names: str) -> None:
    for name in names or ("incoming-answered",):
        serial = next(_serial)
        posts = as_new_call(scenario(name), f"37529700{serial:04}", 1757900000 + serial)
        program.play([(office, posts)], speed=100.0)
    program.settled(office)


def whole_lines(program: Program, office: Office) -> list[Line]:
    """What the files of an enterprise have, half lines left out."""
    found = []
    for line in program.trace_text(office).splitlines(keepends=True):
        try:
            found.append(parse_line(line))
        except LineError:
            continue
    return found


def records(program: Program, office: Office) -> int:
    return int(
        program.sql(
            """SELECT (SELECT count(*) FROM call_events WHERE enterprise = $1)
            + (SELECT count(*) FROM telegram_actions WHERE enterprise = $1)
            + (SELECT count(*) FROM decisions WHERE enterprise = $1) AS n""",
            office.number,
        )[0]["n"]
    )


def caught_up(program: Program, office: Office, n_lines: int = 0) -> list[Line]:
    wanted = n_lines or records(program, office)
    until(lambda: len(whole_lines(program, office)) >= wanted, f"the trace has {wanted} lines", 60)
    lines = whole_lines(program, office)
    assert len(lines) == wanted
    return lines


def lag_of(program: Program, sink: str) -> float:
    found = re.search(rf'callgram_sink_lag_seconds{{sink="{sink}"}} (\S+)', program.get("/metrics").body.decode())
    return float(found.group(1)) if found else -1.0


def sinks_of(program: Program) -> dict[str, Any]:
    listed = program.cli("sinks", "--json")
    assert listed.returncode == 0, listed.stderr
    return {one["sink"]: one for one in json.loads(listed.stdout)}


@contextmanager
def no_file_grows_past(program: Program, size: int) -> Iterator[None]:
    """A full disk, for an ordinary user too: a write of serve is cut at ``size``, and the next one fails."""
    assert program.process is not None
    pid = program.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_sink_is_sent_back_while_it_is_fed_and_everything_comes_again(running: Program, office: Office) -> None:
    play(running, office)
    n_lines = len(caught_up(running, office))
    answer = running.cli("sinks", "rewind", "tracer", "--to", "2020-01-01")
    assert answer.returncode == 0, answer.stderr
    caught_up(running, office, 2 * n_lines)
    play(running, office)
    caught_up(running, office, n_lines + records(running, office))
    until(lambda: "sink tracer was moved" in running.log, "the log says so")
    until(lambda: sinks_of(running)["tracer"]["position"] > "0" * 20, "its place is kept")


def test_a_full_disk_pauses_the_trace_and_nothing_else_and_it_catches_up(
    running: Program, office: Office, other_office: Office
) -> None:
    while len(running.trace_text(office)) < 2 * len(running.log) + 20_000:  # the log must not be what is cut
        play(running, office, "incoming-attended-transfer")
        caught_up(running, office)
    before = len(whole_lines(running, office))
    size = len(running.trace_text(office).encode()) + 100
    told = len(running.log)
    with no_file_grows_past(running, size):
        play(running, office)  # settled: it is planned and sent all the same
        until(lambda: re.search(PAUSED, running.log[told:]), "the log says so")
        until(lambda: lag_of(running, "tracer") > 1, "metrics say so")
        assert len(running.trace_text(office).encode()) <= size
    lines = caught_up(running, office)
    assert len(lines) > before + 10
    assert "free space" in running.log
    until(lambda: "sink tracer goes on after" in running.log[told:], "the log says that it goes on")
    until(lambda: lag_of(running, "tracer") == 0, "metrics say that it has caught up")
    path = running.work / "call_tracer" / office.number / "events.log"
    assert "\x18\n" in path.read_text()  # the half line, which no reader takes
    to = ("--url", running.url, "--token", other_office.token, "--speed", "1000")
    done = running.cli("replay", str(path), *to)
    n_events = sum(line.source == "AST" for line in lines)
    assert (done.returncode, done.stdout) == (0, f"{n_events} events posted, 0 refused\n")
    assert len(running.stored(other_office)) == n_events


def test_a_directory_that_is_taken_away_pauses_the_trace_and_it_catches_up(running: Program, office: Office) -> None:
    play(running, office)
    caught_up(running, office)
    directory, aside = running.work / "call_tracer", running.work / "aside"
    told = len(running.log)
    directory.rename(aside)
    directory.write_text("somebody's file")
    play(running, office)
    until(lambda: re.search(PAUSED, running.log[told:]), "the log says so")
    directory.unlink()
    aside.rename(directory)
    caught_up(running, office)
    until(lambda: lag_of(running, "tracer") == 0, "the lag is over")


def test_a_directory_that_was_removed_is_made_again(running: Program, office: Office) -> None:
    play(running, office)
    caught_up(running, office)
    n_before = records(running, office)
    shutil.rmtree(running.work / "call_tracer")
    play(running, office)
    caught_up(running, office, records(running, office) - n_before)


def test_one_call_is_told_from_rotated_files_alone(running: Program, office: Office) -> None:
    """Its beginning is in yesterday's file."""
    play(running, office, "incoming-attended-transfer")
    lines = caught_up(running, office)
    folder = running.work / "call_tracer" / office.number
    texts = (folder / "events.log").read_text().splitlines(keepends=True)
    (folder / "events.log.2025-01-01").write_text("".join(texts[:5]))
    (folder / "events.log").write_text("".join(texts[5:]))
    for uid in {line.unique_id for line in lines if line.source == "AST" and line.unique_id}:
        answer = running.cli("trace", uid, "--files", CALLGRAM_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
        assert answer.returncode == 0, answer.stderr
        assert sorted(answer.stdout.splitlines()) == sorted("".join(texts).splitlines())


def test_hundreds_of_enterprises_are_traced_with_bounded_descriptors(make_program: Callable[..., Program]) -> None:
    program = make_program(plugins_toml("postgres", "tracer"))
    offices = [new_office(f"{20_000 + n}", n_chats=2) for n in range(N_ENTERPRISES)]
    one_bot = [Office(number=one.number, token=one.token, bot_token=offices[0].bot_token, chats=()) for one in offices]
    program.start()
    assert program.process is not None
    program.add(one_bot)
    descriptors = Path(f"/proc/{program.process.pid}/fd")
    before = len(os.listdir(descriptors))
    for round_ in range(2):
        for at, office in enumerate(one_bot):
            program.tell(office, "start", UniqueId=f"17579{round_}0000.{at}", Phone="375296254070", CallType=0)
    folder = program.work / "call_tracer"
    wanted = int(program.sql("SELECT count(*) FROM call_events")[0][0])
    assert wanted == 2 * N_ENTERPRISES

    def lines() -> int:
        return sum(path.read_bytes().count(b"|AST|start|") for path in folder.glob("*/events.log"))

    until(lambda: lines() == 2 * N_ENTERPRISES, "every event is traced", 60)
    assert len(list(folder.iterdir())) == N_ENTERPRISES
    assert len(os.listdir(descriptors)) <= before + 128 + 20


def test_a_plugin_that_raises_or_hangs_holds_up_no_other_sink(
    make_program: Callable[..., Program], tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = install(tmp_path_factory.mktemp("stranger") / "site")
    bad = '[[plugin]]\nname = "acme_raises"\n[[plugin]]\nname = "acme_hangs"\n'
    shipped = plugins_toml("postgres", "hangup", "tracer") + bad
    program = make_program(shipped, PYTHONPATH=str(stranger))
    program.expected_errors = [
        r"sink acme_\w+ does not take the record",
        r"plugin acme_\w+, hook \w+ (raised|timed_out)",
    ]
    office = new_office()
    program.start()
    program.add([office])
    serial = next(_serial)
    program.play(
        [(office, as_new_call(scenario("incoming-answered"), f"37529700{serial:04}", 1757900000 + serial))], speed=100.0
    )
    until(lambda: len(whole_lines(program, office)) >= 10, "the trace has the call", 30)
    until(lambda: min(lag_of(program, "acme_raises"), lag_of(program, "acme_hangs")) > 0, "their lag is told", 30)
    until(lambda: lag_of(program, "tracer") == 0, "the tracer does not lag")
    until(lambda: sinks_of(program)["tracer"]["lag_s"] == 0, "nor does the command say so")
    sinks = sinks_of(program)
    assert min(sinks["acme_raises"]["lag_s"], sinks["acme_hangs"]["lag_s"]) > 0
