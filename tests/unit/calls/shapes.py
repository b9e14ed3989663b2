"""Shapes of calls that were described (docs/events.md, orders of real calls) but not recorded: made here, event by event.

A channel is the counter of its UniqueId; a bridge is a letter. The last part of each shape is what it was.
"""

from __future__ import annotations

from typing import Any

CLIENT, LINE = "375296254070", "0001363"
IN = {"Phone": CLIENT, "CallType": 0, "Trunk": LINE}
OUT = {"Phone": CLIENT, "CallType": 1, "Trunk": LINE, "Extensions": ["151"]}


def channel(kind: str, at_s: float, counter: int, bridge: str, name: str, num: str, other: str, exten: str = "") -> Any:
    """A ``bridge``, ``bridge_leave`` or ``new_callerid`` of a channel."""
    body = {"Channel": name, "CallerIDNum": num, "ConnectedLineNum": other, "Exten": exten}
    return at_s, kind, counter, body | ({"BridgeUniqueid": bridge} if bridge else {})


def enter(*about: Any) -> Any:
    return channel("bridge", *about)


def leave(*about: Any) -> Any:
    return channel("bridge_leave", *about)


def ended(at_s: float, counter: int, call_type: int, phone: str, *who: str, status: str = "2", trunk: str = "") -> Any:
    body = {"CallType": call_type, "Phone": phone, "Extensions": [*who], "CallStatus": status}
    return at_s, "hangup", counter, body | ({"Trunk": trunk} if call_type != 2 else {})


def call(direction: str, result: str, **more: str) -> dict[str, Any]:
    return {"direction": direction, "result": result, "finals": 1, **more}


TALK_IN = [
    (0.0, "start", 6, IN),
    (0.5, "dial", 6, {**IN, "Extensions": ["150", "151"]}),
    enter(8.0, 8, "a", "SIP/151-00000008", "151", CLIENT),
    enter(8.3, 6, "a", "SIP/0001363-00000006", CLIENT, "151", LINE),
]
TALK_OUT = [
    (0.0, "dial", 20, OUT),
    channel("new_callerid", 0.4, 21, "", "SIP/0001363-00000021", CLIENT, "151"),
    enter(6.0, 21, "a", "SIP/0001363-00000021", CLIENT, "151"),
    enter(6.3, 20, "a", "SIP/151-00000020", "151", CLIENT, CLIENT),
]

SHAPES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "hold": (
        [
            *TALK_IN,
            leave(20.0, 8, "a", "SIP/151-00000008", "151", CLIENT),
            enter(31.0, 8, "a", "SIP/151-00000008", "151", CLIENT),
            leave(50.0, 6, "a", "SIP/0001363-00000006", CLIENT, "151"),
            leave(50.3, 8, "a", "SIP/151-00000008", "151", CLIENT),
            ended(52.0, 6, 0, CLIENT, "151", trunk=LINE),
        ],
        call("incoming", "answered", client=CLIENT, line=LINE, answered_by="151"),
    ),
    "outgoing-blind-transfer": (
        [
            *TALK_OUT,
            leave(20.0, 20, "a", "SIP/151-00000020", "151", CLIENT),
            leave(20.3, 21, "a", "SIP/0001363-00000021", CLIENT, "151"),
            ended(21.0, 20, 1, CLIENT, "151", trunk=LINE),
            enter(25.0, 24, "b", "SIP/152-00000024", "152", CLIENT),
            enter(25.3, 21, "b", "SIP/0001363-00000021", CLIENT, "152", "152"),
            leave(40.0, 21, "b", "SIP/0001363-00000021", CLIENT, "152"),
            leave(40.3, 24, "b", "SIP/152-00000024", "152", CLIENT),
            ended(42.0, 21, 2, CLIENT, "152"),
        ],
        call("outgoing", "answered", client=CLIENT, line=LINE, caller="151", answered_by="151", transferred_to="152"),
    ),
    "outgoing-attended-transfer": (
        [
            *TALK_OUT,
            enter(15.0, 23, "b", "SIP/152-00000023", "152", "151"),
            enter(15.3, 22, "b", "SIP/151-00000022", "151", "152", "152"),
            leave(25.0, 21, "a", "SIP/0001363-00000021", CLIENT, "151"),
            leave(25.1, 22, "b", "SIP/151-00000022", "151", "152"),
            enter(25.2, 21, "b", "SIP/0001363-00000021", CLIENT, "152"),
            leave(25.3, 20, "a", "SIP/151-00000020", "151", CLIENT),
            ended(26.0, 22, 2, "151", "152"),
            ended(27.0, 20, 1, CLIENT, "151", trunk=LINE),
            leave(45.0, 21, "b", "SIP/0001363-00000021", CLIENT, "152"),
            leave(45.3, 23, "b", "SIP/152-00000023", "152", CLIENT),
        ],
        call("outgoing", "answered", client=CLIENT, line=LINE, caller="151", answered_by="151", transferred_to="152"),
    ),
    "department-answered": (
        [
            enter(4.0, 51, "a", "SIP/150-00000051", "150", "152"),
            enter(4.3, 50, "a", "SIP/152-00000050", "152", "150", "901"),
            leave(30.0, 50, "a", "SIP/152-00000050", "152", "150"),
            leave(30.3, 51, "a", "SIP/150-00000051", "150", "152"),
            ended(32.0, 50, 0, "152", "150"),
        ],
        call("internal", "answered", caller="152", answered_by="150"),
    ),
    "department-unanswered": (
        [ended(20.0, 50, 0, "152", "", status="0")],
        call("internal", "missed", caller="152", answered_by=""),
    ),
    "city-number": (
        [
            (0.0, "start", 6, {**IN, "Phone": "103"}),
            (0.5, "dial", 6, {**IN, "Phone": "103", "Extensions": ["150"]}),
            enter(8.0, 8, "a", "SIP/150-00000008", "150", "103"),
            enter(8.3, 6, "a", "SIP/0001363-00000006", "103", "150", LINE),
            leave(30.0, 8, "a", "SIP/150-00000008", "150", "103"),
            leave(30.3, 6, "a", "SIP/0001363-00000006", "103", "150"),
            ended(32.0, 6, 0, "103", "150", trunk=LINE),
        ],
        call("incoming", "answered", client="103", line=LINE, answered_by="150"),
    ),
    "trunk-as-caller": (
        [
            (0.0, "start", 6, {**IN, "Phone": LINE}),
            (1.0, "dial", 6, {**IN, "Extensions": ["150"]}),
            ended(12.0, 6, 0, CLIENT, "", status="0", trunk=LINE),
        ],
        call("incoming", "missed", client=CLIENT, line=LINE, answered_by=""),
    ),
}
