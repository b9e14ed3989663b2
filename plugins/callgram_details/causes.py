"""Causes: which event each action of a call answers, told from what is stored. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from callgram import Action, Call, Event, Kind, Op, Stage


def causes_of(events: Sequence[Event], history: dict[int, Call], actions: Sequence[Action]) -> dict[int, Event]:
    """``{action id: the event that it answers}``: the last event before it that changed what a reader sees.

    A send or edit of a stage answers an event after which the call was at that stage; deletes and skips are answers to
    whatever changed last. Without ``history`` the kind of an event stands for the stage.
    """
    changing: list[tuple[Event, Stage | None]] = []
    last: Call | None = None
    for event in events:
        now = history.get(event.id)
        if now is None:
            stage = _STAGE_OF_KIND.get(event.kind)
            if stage is not None:
                changing.append((event, stage))
        elif last is None or msgspec.structs.replace(now, version=last.version) != last:
            changing.append((event, stage_of(now)))
        last = now
    found: dict[int, Event] = {}
    for action in actions:
        before = [(event, stage) for event, stage in changing if event.received_at <= action.at]
        fitting = [event for event, stage in before if stage is action.stage]
        if action.op in {Op.SEND, Op.EDIT} and fitting:
            found[action.id] = _first_of_run(before, action.stage) if action.op is Op.SEND else fitting[-1]
        elif before:
            found[action.id] = before[-1][0]
    return found


def _first_of_run(before: Sequence[tuple[Event, Stage | None]], stage: Stage) -> Event:
    """The event that brought the call to ``stage`` the last time before: what the first send of the stage answers."""
    at = max(place for place, (_, reached) in enumerate(before) if reached is stage)
    while at > 0 and before[at - 1][1] is stage:
        at -= 1
    return before[at][0]


_STAGE_OF_KIND = {
    Kind.START: Stage.START,
    Kind.DIAL: Stage.DIAL,
    Kind.BRIDGE: Stage.BRIDGE,
    Kind.HANGUP: Stage.HANGUP,
}


def stage_of(call: Call) -> Stage | None:
    """The stage that the shipped plugins plan for ``call``."""
    if call.ended:
        return Stage.HANGUP
    if call.talkers:
        return Stage.BRIDGE
    if call.dialled:
        return Stage.DIAL
    return Stage.START if call.greeted else None
