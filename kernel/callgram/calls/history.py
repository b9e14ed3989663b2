"""History: how a call looked after each of its events. What the planner saw, told again from the stored events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def told_around(events: Sequence[Event], place: int, plan: NumberPlan) -> tuple[Call | None, Call]:
    """The call before and after ``events[place]``, as ``retold`` has them. Folding is cheap and telling is not: of a call of
    hundreds of events this is the way to look at one. Before its first event there is no call."""
    facts: Facts | None = None
    for event in events[:place]:
        facts = opened(event) if facts is None else fold(facts, event)
    before = None if facts is None else tell(facts, plan)
    after = opened(events[place]) if facts is None else fold(facts, events[place])
    return before, tell(after, plan)
