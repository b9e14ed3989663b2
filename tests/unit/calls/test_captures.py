"""Every scenario and every capture, in the order in which it really arrived, gives the calls that were made."""

from __future__ import annotations

import pytest

from callgram import Stage

from .traffic import DATA, Source, captures, play, sources, timed, unmatched

EVERY = [pytest.param(source, id=source.name) for source in sources()]


def test_every_capture_has_an_expectation_and_every_expectation_a_capture() -> None:
    files = {str(path.relative_to(DATA / "captures")) for path in (DATA / "captures").glob("*/*.jsonl")}
    assert len(files) == len(captures()) == 81


@pytest.mark.parametrize("source", EVERY)
def test_traffic_in_its_real_order_gives_the_calls_that_were_made(source: Source) -> None:
    played = play(timed(source.posts))
    assert unmatched(played.finals, source.calls) == []
    assert len(played.leftovers) == source.expected["leftovers"]


@pytest.mark.parametrize("source", EVERY)
def test_no_reader_sees_an_end_before_the_end(source: Source) -> None:
    played = play(timed(source.posts), show=True)
    for stages in played.stages.values():
        assert Stage.HANGUP not in stages[:-1]
        assert [stage.rank for stage in stages] == sorted(stage.rank for stage in stages), "stages only go forward"


@pytest.mark.parametrize("source", EVERY)
def test_no_call_that_readers_saw_vanishes_into_another(source: Source) -> None:
    played = play(timed(source.posts), show=True)
    assert [loser for loser, _ in played.absorbed if loser in played.stages] == []


@pytest.mark.parametrize("source", EVERY)
def test_the_direction_never_flips_once_it_was_shown(source: Source) -> None:
    played = play(timed(source.posts), show=True)
    assert all(len(set(shown)) == 1 for shown in played.directions.values())


@pytest.mark.parametrize("source", EVERY)
def test_every_call_that_talks_is_shown_talking_before_its_end(source: Source) -> None:
    played = play(timed(source.posts), show=True)
    for call in played.finals:
        if call.talk_s is not None:
            assert Stage.BRIDGE in played.stages[call.id]
