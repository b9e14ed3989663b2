"""Folding and telling again: one event more is the merge of a call with it, and any moment of a call can be looked at alone."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from callgram.calls.facts import MAX_FACTS, fold, merge, opened
from callgram.calls.history import retold, told_around
from callgram.events import Event, Kind
from callgram.numbers import NumberPlan

KINDS = (Kind.START, Kind.DIAL, Kind.HANGUP, Kind.BRIDGE, Kind.BRIDGE_LEAVE)
BEGAN = datetime(2025, 11, 29, 12, 0, tzinfo=UTC)
FOLDED = ("starts", "dials", "hangups", "moves")


def traffic(seed: int, n_events: int) -> list[Event]:
    """Events of one call, oldest first but for some, many of them in one instant, many of them told before."""
    chance = random.Random(seed)
    return [
        Event(
            id=number,
            enterprise="0367",
            kind=chance.choice(KINDS),
            received_at=BEGAN + timedelta(seconds=number // 3 - chance.choice((0, 0, 0, 0, 5))),
            unique_id=f"1.{chance.randint(1, 4)}",
            bridge_id=f"b{chance.randint(1, 2)}",
            channel=f"SIP/15{chance.randint(1, 4)}-1",
            phone="375296254070",
            extensions=(f"15{chance.randint(0, 9)}",),
            call_type=0,
        )
        for number in range(1, n_events + 1)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_folding_an_event_is_merging_a_call_of_it_alone(seed: int) -> None:
    """Whatever of it is new, told before, late, or more than is kept."""
    first, *events = traffic(seed, 3 * MAX_FACTS)
    facts = opened(first)
    for event in events:
        merged, facts = merge(facts, opened(event)), fold(facts, event)
        assert [getattr(facts, name) for name in FOLDED] == [getattr(merged, name) for name in FOLDED]
    assert len(facts.moves) == MAX_FACTS


def test_one_moment_of_a_call_is_what_it_is_among_all() -> None:
    events, plan = traffic(7, 60), NumberPlan()
    told = retold(events, plan)
    assert len({call.talkers for call in told}) > 1
    for place, (before, after) in enumerate(zip([None, *told], told, strict=False)):
        assert told_around(events, place, plan) == (before, after)
