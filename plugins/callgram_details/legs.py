"""Legs: the channels of a call, with whom they were, and from when to when they were heard of. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from callgram import Call, CallFile
from callgram_details.story import device_of, names_of, split, whose
from callgram_details.wording import Wording


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """A channel. ``number`` and ``name`` are its caller id's, ``seen`` the clocks of its first and last event."""

    unique_id: str
    device: str
    who: str
    number: str
    name: str
    channel: str
    seen: str


def legs_of(file: CallFile, call: Call, words: Wording) -> list[Leg]:
    """The channels in the order of their first events."""
    events, _ = split(file)
    names = names_of(file)
    heard: dict[str, list[datetime]] = {}
    for event in events:
        if event.unique_id:
            heard.setdefault(event.unique_id, []).append(event.received_at)
    found = []
    for unique_id, times in heard.items():
        leg = file.facts.legs.get(unique_id)
        found.append(
            Leg(
                unique_id=unique_id,
                device=device_of(file, unique_id),
                who=whose(file, call, unique_id, names, words),
                number=words.number(leg.num) if leg else "",
                name=leg.name if leg else "",
                channel=leg.channel if leg else "",
                seen=f"{words.moment(times[0])} – {words.moment(times[-1])}",
            )
        )
    return found
