"""The call as everybody else sees it: a value, told from its facts by ``callgram.calls.story``. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from callgram.events import History


class Direction(StrEnum):
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    INTERNAL = "internal"


class Result(StrEnum):
    LIVE = "live"
    ANSWERED = "answered"
    MISSED = "missed"  # nobody answered, whichever the direction


class Cause(StrEnum):
    """Why nobody answered, where the host tells it. Who just let it ring is no cause."""

    CANCELLED = "cancelled"  # the caller hung up first
    BUSY = "busy"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"
    CONGESTION = "congestion"
    WRONG_NUMBER = "wrong_number"


class Side(StrEnum):
    """Which side of a talk with the outside."""

    CLIENT = "client"
    STAFF = "staff"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """All channels of one conversation, as far as it is known. What is not known is ``""``, ``()`` or ``None``.

    ``unique_id`` is the head: the channel whose hangup ends the call; ``""`` while only inner legs are known, and then
    there is nothing to show yet. ``client`` is the outside party in canonical form, ``""`` when hidden or when there is
    none. ``caller`` is who dialled in an outgoing or internal call. ``greeted``: a start was told; ``dialled``: a dial
    was. ``ringing`` is whom the last dial step rings, ``rung`` everybody who was rung, ``talkers`` who talked, in order
    (extensions, or mobiles in canonical form): the last one is with the client now, since ``talking_since``; one who gets
    the client back is named again. ``cause`` is why nobody answered; ``hung_up`` is who ended the talk.

    ``names`` (``{number: name}``), ``history`` and ``recording_link`` are what plugins found out; ``recording`` is what the
    host told of one, a URL or a path.

    Times are aware UTC arrivals. ``left_at`` is when the talk was left by everybody; ``talk_s`` and ``wait_s`` are seconds,
    ``None`` while unknown. ``closed`` means that no hangup came and our own clock ended the call. ``host_start`` and
    ``host_end`` are what the host wrote, in its own zone; ``host_began_at`` and ``host_ended_at`` are the same, unless it is
    nonsense: ``doubt`` says why then. ``late_s`` is how long after that end the hangup came. ``began_at`` is when the
    call began as far as is known: the first arrival, or the host's word where all came late.
    """

    id: int
    enterprise: str
    version: int
    unique_id: str
    direction: Direction
    answered: bool
    ended: bool
    closed: bool
    client: str
    caller: str
    ringing: tuple[str, ...]
    rung: tuple[str, ...]
    talkers: tuple[str, ...]
    line: str
    greeted: bool
    dialled: bool
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None
    talk_s: float | None
    wait_s: float | None
    left_at: datetime | None
    host_start: str
    host_end: str
    host_began_at: datetime | None = None
    host_ended_at: datetime | None = None
    doubt: str = ""
    talking_since: datetime | None = None
    cause: Cause | None = None
    hung_up: Side | None = None
    names: dict[str, str] = {}
    history: History | None = None
    recording: str = ""
    recording_link: str = ""

    @property
    def late_s(self) -> float:
        """0 where the host's end is not known."""
        if self.ended_at is None or self.host_ended_at is None:
            return 0.0
        return max(0.0, (self.ended_at - self.host_ended_at).total_seconds())

    @property
    def began_at(self) -> datetime:
        told = self.host_began_at
        if told is None or told > self.started_at:
            return self.started_at
        only_the_end = self.ended_at == self.started_at
        all_late = self.host_ended_at is not None and self.started_at > self.host_ended_at
        return told if only_the_end or all_late else self.started_at

    @property
    def result(self) -> Result:
        if not self.ended:
            return Result.LIVE
        return Result.ANSWERED if self.answered else Result.MISSED
