"""Facts: everything that the events of one call said, kept as sets so that neither order nor repetition matters.

``fold`` adds an event, ``merge`` joins two that turned out to be one call. Nothing here interprets; that is ``story``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import msgspec

from callgram.events import Enrichment, Event, Kind

MAX_FACTS = 200  # of one sort in one call: a phone that forwards to itself makes a new leg every half second. Of more,
# the first and the last are kept: how the call began, and its hangup.


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ``start``, ``dial`` and ``hangup`` have in common. ``at`` is the arrival, aware UTC."""

    at: datetime
    unique_id: str
    phone: str = ""
    extensions: tuple[str, ...] = ()
    trunk: str = ""
    call_type: int | None = None


class Ring(Told, frozen=True, kw_only=True, omit_defaults=True):
    """A ``start`` or a ``dial``."""


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel entered (or left) a bridge, which then has ``n_channels``. Senders without bridge ids tell ``main_id``, the
    channel it talks to."""

    at: datetime
    unique_id: str
    bridge_id: str = ""
    main_id: str = ""
    left: bool = False
    n_channels: int | None = None


class Leg(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel seen from the call, as its ``bridge`` and ``new_callerid`` events described it (latest wins)."""

    at: datetime
    channel: str = ""
    exten: str = ""
    num: str = ""
    name: str = ""
    connected_num: str = ""
    connected_name: str = ""


class Hangup(Told, frozen=True, kw_only=True, omit_defaults=True):
    """The end of a dialplan context: of the call, or of an inner or mobile leg of it."""

    status: str = ""
    start_time: str = ""
    end_time: str = ""
    cause: str = ""
    dial_status: str = ""


Fact = TypeVar("Fact", bound="Told | Move")


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call as it was told so far. ``version`` grows by one with every event that was folded in."""

    id: int
    enterprise: str
    version: int = 0
    first_at: datetime
    last_at: datetime
    starts: tuple[Ring, ...] = ()
    dials: tuple[Ring, ...] = ()
    hangups: tuple[Hangup, ...] = ()
    moves: tuple[Move, ...] = ()
    legs: dict[str, Leg] = {}
    closed_at: datetime | None = None
    recording: str = ""
    found: Enrichment | None = None


def opened(event: Event) -> Facts:
    """The facts of a call that begins with ``event``. The event's id, unique in the store, is the call's id."""
    empty = Facts(id=event.id, enterprise=event.enterprise, first_at=event.received_at, last_at=event.received_at)
    return fold(empty, event)


def fold(facts: Facts, event: Event) -> Facts:
    """Add what ``event`` says. Repeating an event changes only ``version``."""
    changes: dict[str, object] = {
        "version": facts.version + 1,
        "first_at": min(facts.first_at, event.received_at),
        "last_at": max(facts.last_at, event.received_at),
    }
    at, uid = event.received_at, event.unique_id
    match event.kind:
        case Kind.START:
            changes["starts"] = _add(facts.starts, _ring(event))
        case Kind.DIAL:
            changes["dials"] = _add(facts.dials, _ring(event))
        case Kind.HANGUP:
            changes["hangups"] = _add(facts.hangups, _hangup(event))
        case Kind.BRIDGE | Kind.BRIDGE_LEAVE:
            left = event.kind is Kind.BRIDGE_LEAVE
            move = Move(
                at=at,
                unique_id=uid,
                bridge_id=event.bridge_id,
                main_id=event.main_id,
                left=left,
                n_channels=event.n_channels if left else None,
            )
            changes["moves"] = _add(facts.moves, move)
        case Kind.TIMER:
            changes["closed_at"] = at
            changes["last_at"] = facts.last_at
        case Kind.NAMES:
            changes["found"] = _joined(facts.found, event.found)
            changes["last_at"] = facts.last_at
        case Kind.RECORDING:
            changes["last_at"] = facts.last_at
    if event.recording and (event.kind is Kind.RECORDING or not facts.recording):
        changes["recording"] = event.recording
    described = uid and event.kind in {Kind.BRIDGE, Kind.BRIDGE_LEAVE, Kind.NEW_CALLERID}
    if described and (uid in facts.legs or len(facts.legs) < MAX_FACTS):
        changes["legs"] = facts.legs | {uid: _leg(facts.legs.get(uid), event)}
    return msgspec.structs.replace(facts, **changes)


def merge(one: Facts, other: Facts) -> Facts:
    """Two sets of facts that are one call. The older call survives with its id."""
    first, second = sorted((one, other), key=lambda facts: (facts.first_at, facts.id))
    closed = [facts.closed_at for facts in (first, second) if facts.closed_at]
    legs = dict(first.legs)
    for uid, leg in second.legs.items():
        legs[uid] = max((known for known in (legs.get(uid), leg) if known), key=lambda known: known.at)
    return Facts(
        id=first.id,
        enterprise=first.enterprise,
        version=first.version + second.version,
        first_at=first.first_at,
        last_at=max(first.last_at, second.last_at),
        starts=_union(first.starts, second.starts),
        dials=_union(first.dials, second.dials),
        hangups=_union(first.hangups, second.hangups),
        moves=_union(first.moves, second.moves),
        legs=dict(list(legs.items())[:MAX_FACTS]),
        closed_at=max(closed) if len(closed) == 2 else None,
        recording=second.recording or first.recording,
        found=_joined(first.found, second.found),
    )


def _joined(known: Enrichment | None, more: Enrichment | None) -> Enrichment | None:
    """Both; what was found later wins."""
    if known is None or more is None:
        return more or known
    return Enrichment(
        names=known.names | more.names,
        history=more.history or known.history,
        recording=more.recording or known.recording,
    )


def _ring(event: Event) -> Ring:
    return Ring(
        at=event.received_at,
        unique_id=event.unique_id,
        phone=event.phone,
        extensions=event.extensions,
        trunk=event.trunk,
        call_type=event.call_type,
    )


def _hangup(event: Event) -> Hangup:
    return Hangup(
        at=event.received_at,
        unique_id=event.unique_id,
        phone=event.phone,
        extensions=event.extensions,
        trunk=event.trunk,
        call_type=event.call_type,
        status=event.status,
        start_time=event.start_time,
        end_time=event.end_time,
        cause=event.cause,
        dial_status=event.dial_status,
    )


def _leg(known: Leg | None, event: Event) -> Leg:
    """What is said later wins, but silence (``""``) never wipes out what was said."""
    old = known or Leg(at=event.received_at)
    newer = event.received_at >= old.at
    said = {
        "channel": event.channel,
        "exten": event.exten,
        "num": event.caller_num,
        "name": event.caller_name,
        "connected_num": event.connected_num,
        "connected_name": event.connected_name,
    }
    kept = {name: value for name, value in said.items() if value and (newer or not getattr(old, name))}
    return msgspec.structs.replace(old, at=max(old.at, event.received_at), **kept)


def _add(known: tuple[Fact, ...], fact: Fact) -> tuple[Fact, ...]:
    """``_union`` with one more, which is nearly always the newest."""
    if known and fact.at < known[-1].at:
        return _union(known, (fact,))
    if isinstance(fact, Move):
        told = fact in known
    else:
        told = _identity(fact) in [_identity(old) for old in known if old.unique_id == fact.unique_id]
    return known if told else _bounded((*known, fact))


def _union(known: tuple[Fact, ...], more: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Both, in order of arrival, one of each (a repeated fact keeps its first arrival), bounded."""
    seen: dict[object, Fact] = {}
    for fact in sorted((*known, *more), key=lambda fact: fact.at):
        seen.setdefault(_identity(fact), fact)
    return _bounded(tuple(seen.values()))


def _bounded(facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    return facts if len(facts) <= MAX_FACTS else facts[: MAX_FACTS // 2] + facts[-MAX_FACTS // 2 :]


def _identity(fact: Told | Move) -> object:
    """What makes two facts one. Not when it arrived, but for moves: a channel may enter a bridge again."""
    said = msgspec.structs.astuple(fact)
    return said if isinstance(fact, Move) else said[1:]
