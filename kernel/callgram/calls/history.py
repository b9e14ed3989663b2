"""History: how a call looked after each of its events. What the planner saw, told again from the stored events. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from callgram.calls.facts import Facts, fold, opened
from callgram.calls.story import Call, tell
from callgram.events import Event
from callgram.numbers import NumberPlan


def retold(events: Iterable[Event], plan: NumberPlan) -> list[Call]:
    """The call after each of ``events`` (all of one call, oldest first), as it would be told then."""
    calls: list[Call] = []
    facts: Facts | None = None
    for event in events:
        facts = opened(event) if facts is None else fold(facts, event)
        calls.append(tell(facts, plan))
    return calls
