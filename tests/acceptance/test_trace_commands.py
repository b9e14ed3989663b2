"""``callgram trace`` and ``callgram sinks``: one call's lines from the store and from the files alone; where the sinks are."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from callgram_tracer import parse_line

from ..serve import until
from .harness import Office, Program, new_office, plugins_toml
from .recordings import scenario

LEGS = ("1757840000.30", "1757840000.33", "1757840000.36")
"""Channels of the attended transfer: the client, the first manager, the second."""


@pytest.fixture(scope="module")
def played(make_program: Callable[..., Program]) -> tuple[Program, Office]:
    """A program that has seen two calls of one enterprise."""
    program, office = make_program(plugins_toml()), new_office()
    program.start()
    program.add([office])
    program.play([(office, scenario("incoming-attended-transfer")), (office, scenario("outgoing-answered"))])
    program.settled(office)
    program.trace(office)
    return program, office


def lines_of(program: Program, *arguments: str) -> list[str]:
    answer = program.cli("trace", *arguments)
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout.splitlines()


def test_a_call_is_the_same_lines_from_every_leg(played: tuple[Program, Office]) -> None:
    program, office = played
    first, *others = [lines_of(program, leg) for leg in LEGS]
    assert all(other == first for other in others)
    lines = [parse_line(line) for line in first]
    assert {line.source for line in lines} == {"AST", "TG"}
    assert sum(line.source == "AST" for line in lines) == len(scenario("incoming-attended-transfer"))
    assert office.token not in "\n".join(first)


def test_the_files_alone_tell_the_same(played: tuple[Program, Office]) -> None:
    program, _ = played
    from_store = lines_of(program, LEGS[0])
    for leg in LEGS:
        assert sorted(lines_of(program, leg, "--files")) == sorted(from_store)


def test_an_unknown_call_is_one_line_that_says_so(played: tuple[Program, Office]) -> None:
    program, _ = played
    for arguments in (("1.1",), ("1.1", "--files"), (LEGS[0], "--enterprise", "nobody")):
        answer = program.cli("trace", *arguments)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert "nothing is known" in answer.stderr


def test_the_sinks_say_where_they_are(played: tuple[Program, Office]) -> None:
    program, _ = played

    def caught_up() -> bool:
        (tracer,) = json.loads(program.cli("sinks", "--json").stdout)
        return tracer["sink"] == "tracer" and bool(tracer["position"]) and tracer["lag_s"] == 0

    until(caught_up, "the tracer has said that it has told everything")
    assert program.cli("sinks", "rewind", "nobody", "--to", "2020-01-01").returncode == 1
    assert program.cli("sinks", "rewind", "tracer", "--to", "yesterday").returncode == 1


def test_a_sink_that_was_sent_back_while_nobody_feeds_it_gets_everything_again(played: tuple[Program, Office]) -> None:
    program, office = played
    before = len(program.trace(office))
    program.stop()
    answer = program.cli("sinks", "rewind", "tracer", "--to", "2020-01-01")
    assert answer.returncode == 0, answer.stderr
    assert "from 2020-01-01 00:00:00+03:00" in answer.stdout, "by the clock of the lines in its files"
    program.start()
    until(lambda: len(program.trace(office)) >= 2 * before, "the sink has told everything a second time")
    assert len(program.trace(office)) == 2 * before
