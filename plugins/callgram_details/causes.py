"""Causes: which event each action of a call answers, told from what is stored. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from callgram import Action, Call, Event, Kind, Op, Stage


def causes_of(events: Sequence[Event], history: dict[int, Call], actions: Sequence[Action]) -> dict[int, Event]:
    """``{action id: the event that it answers}``. Both sequences are oldest first.

    A send answers the event that brought the call to its stage the last time before, an edit the last after which the call
    was at its stage; deletes and skips answer the last that changed what a reader sees. Without ``history`` the kind of an
    event stands for the stage.
    """
    changing = _changing(events, history)
    began: dict[Stage | None, Event] = {}
    latest: dict[Stage | None, Event] = {}
    found: dict[int, Event] = {}
    place = 0
    for action in actions:
        while place < len(changing) and changing[place][0].received_at <= action.at:
            event, stage = changing[place]
            if place == 0 or changing[place - 1][1] is not stage:
                began[stage] = event
            latest[stage] = event
            place += 1
        if action.op is Op.SEND and action.stage in began:
            found[action.id] = began[action.stage]
        elif action.op is Op.EDIT and action.stage in latest:
            found[action.id] = latest[action.stage]
        elif place:
            found[action.id] = changing[place - 1][0]
    return found


def _changing(events: Sequence[Event], history: dict[int, Call]) -> list[tuple[Event, Stage | None]]:
    """The events that changed what a reader sees, each with the stage that the call was at then."""
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
    return changing


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
