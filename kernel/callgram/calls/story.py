"""The story of a call: what its facts mean. ``tell`` is pure and gives the :class:`Call` that every plugin sees.

Evidence is weighed, never trusted singly: CallType and CallStatus lie, hangups of inner and mobile legs end nothing, and
a bridge between the client and anybody else means answered whatever the hangup says (docs/calls.md has the table).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property

import msgspec

from callgram.calls.call import Call, Cause, Direction, Result, Side
from callgram.calls.evidence import Evidence, is_local, is_mobile_leg, peer
from callgram.calls.facts import Facts, Hangup, Leg, Move
from callgram.calls.times import LATE_S, clock_is_off, host_times
from callgram.numbers import NumberPlan, bare, is_hidden

__all__ = ["Call", "Cause", "Direction", "Result", "Side", "tell"]


Q850 = {
    "1": Cause.WRONG_NUMBER, "28": Cause.WRONG_NUMBER, "17": Cause.BUSY, "21": Cause.REJECTED, "3": Cause.UNAVAILABLE,
    "20": Cause.UNAVAILABLE, "27": Cause.UNAVAILABLE, "34": Cause.CONGESTION, "38": Cause.CONGESTION,
    "42": Cause.CONGESTION, "44": Cause.CONGESTION,
}  # fmt: skip
DIAL_STATUS = {"BUSY": Cause.BUSY, "CHANUNAVAIL": Cause.UNAVAILABLE, "CONGESTION": Cause.CONGESTION}


ENDING = timedelta(seconds=10)  # a hangup comes 2 to 7 s after the end (docs/events.md), hence after the leaving
PAIR = timedelta(seconds=2)  # the two posts of one meeting are 0.3 to 1.5 s apart: the first of them is when it began


def tell(facts: Facts, plan: NumberPlan) -> Call:
    """Say what ``facts`` mean under the enterprise's number plan."""
    return _Story(facts, plan).call()


class _Talk(msgspec.Struct, frozen=True):
    """Who talked in order, since when, when the talk was last left (``None`` while it goes on, or untold), and since
    when the last of them is there."""

    order: tuple[str, ...] = ()
    since: datetime | None = None
    left_at: datetime | None = None
    now_since: datetime | None = None


def _seconds(begin: datetime | None, end: datetime | None) -> float | None:
    """``None`` where either is not known, or where they come from clocks that contradict each other."""
    if begin is None or end is None or end < begin:
        return None
    return (end - begin).total_seconds()


def _cause(end: Hangup) -> Cause | None:
    """The caller's giving up outweighs what single phones answered (captures, in_ringgroup_missed)."""
    if end.dial_status == "CANCEL":
        return Cause.CANCELLED
    return Q850.get(end.cause) or DIAL_STATUS.get(end.dial_status)


class _Story(Evidence):
    """One telling. Lives for the length of :func:`tell`."""

    def call(self) -> Call:
        facts = self.facts
        talk = self._talk()
        talkers, answered_at, left_at = talk.order, talk.since, talk.left_at
        answered = bool(talkers) or any(end.status in {"2", "5"} for end in (self.ends or self._mobile_ends))
        if answered and not talkers:
            talkers = self._named_by_hangup()
        closed = self._is_silent and not self.ends
        end = self.ends[-1] if self.ends else None
        handed_on = self._handed_on_at() if end and not self._is_silent else None
        ended_at = end.at if end else facts.closed_at if closed else None
        if end and handed_on and handed_on < end.at:
            ended_at = None  # who dialled is gone, and left the client to a colleague
        ended = ended_at is not None
        host_began_at, host_ended_at, doubt = self._host_times(end)
        over_at = None if closed else ended_at  # arrival, unless the hangup came late
        if over_at and host_ended_at and (over_at - host_ended_at).total_seconds() > LATE_S:
            over_at = host_ended_at
            left_at = min(left_at, over_at) if left_at else None
        found = facts.found
        return Call(
            id=facts.id,
            enterprise=facts.enterprise,
            version=facts.version,
            unique_id=self.head,
            direction=self.direction,
            answered=answered,
            ended=ended,
            closed=closed,
            client=self.client,
            caller=self._caller,
            ringing=self._rings[-1] if self._rings else (),
            rung=tuple(dict.fromkeys(number for step in self._rings for number in step)),
            talkers=talkers,
            line=self._line(),
            greeted=bool(facts.starts),
            dialled=any(dial.unique_id not in self.inner for dial in self.dials),
            started_at=facts.first_at,
            answered_at=answered_at,
            ended_at=ended_at,
            talk_s=_seconds(answered_at, left_at or over_at) if ended and not handed_on else None,
            wait_s=_seconds(facts.first_at, over_at) if not answered else None,
            left_at=left_at,
            host_start=end.start_time if end else "",
            host_end=end.end_time if end else "",
            host_began_at=host_began_at,
            host_ended_at=host_ended_at,
            doubt=doubt,
            talking_since=None if ended else talk.now_since,
            cause=_cause(end) if end and not answered else None,
            hung_up=self._hung_up(end) if end and answered else None,
            names=found.names if found else {},
            history=found.history if found else None,
            recording=facts.recording,
            recording_link=found.recording if found else "",
        )

    @cached_property
    def _is_silent(self) -> bool:
        """The call's own clock ran out, and nothing came after it."""
        return self.facts.closed_at is not None and self.facts.closed_at >= self.facts.last_at

    def _host_times(self, end: Hangup | None) -> tuple[datetime | None, datetime | None, str]:
        if end is None:
            return None, None, ""
        began, ended, doubt = host_times(end.start_time, end.end_time, end.at, self.plan.zone)
        if began and ended and clock_is_off(began, ended, self.facts.first_at, end.at):
            return None, None, "the host's clock or zone is off"
        return began, ended, doubt

    # Talk

    def _client_channels(self) -> frozenset[str]:
        """The channels that are the client: the head of an incoming call, the trunk legs of an outgoing one."""
        if self.direction is Direction.INCOMING and self.head:
            return frozenset({self.head})
        found = []
        for uid, leg in self.facts.legs.items():
            outer = not is_local(leg.channel) and not self.plan.is_extension(peer(leg.channel))
            if outer and self.plan.canonical(leg.num) == self.client:
                found.append(uid)
        return frozenset(found)

    def _talk(self) -> _Talk:
        """Who talked with the client, as far as bridges tell."""
        joins = self._joins
        if self.direction is Direction.INTERNAL:
            return self._internal_talk(joins)
        clients = self._client_channels()
        consulted = [move for move in joins if not move.bridge_id and move.main_id in self._consultations]
        meetings = self._meetings([move for move in joins if move not in consulted] if consulted else joins, clients)
        began_at = min((at for at, *_ in meetings), default=None)
        handed = [(at, party) for at, party in self._handed_over(consulted) if began_at is None or at >= began_at]
        met = sorted([*((at, party) for at, _, party in meetings), *handed])
        if not met:
            return _Talk()
        order: list[str] = []
        now_since = met[0][0]
        for at, party in met:
            if not order or party != order[-1]:
                order.append(party)
                now_since = at
        if not meetings:  # the talk that was consulted about is told by the hangup, at most
            named = [number for number in self._named_by_hangup() if number in self._consultations.values()]
            return _Talk(tuple(dict.fromkeys((*named, *order))), None, self._left_at(clients), now_since)
        since = min(told_at for _, told_at, _ in meetings)
        return _Talk(tuple(order), since, self._left_at(clients), now_since)

    @cached_property
    def _consultations(self) -> dict[str, str]:
        """``{unique_id: extension}``: the channels by which somebody of a call with the outside calls a colleague."""
        rings = (*self.dials, *self.hangups)
        inner = [ring for ring in rings if ring.call_type == 2 and self.plan.is_extension(bare(ring.phone))]
        return {ring.unique_id: bare(ring.phone) for ring in inner if ring.unique_id != self.head}

    def _handed_over(self, consulted: list[Move]) -> list[tuple[datetime, str]]:
        """Whom the client got after a consultation, and when, where no bridge ids tell: not before that is over."""
        met = []
        for move in consulted:
            over = [end.at for end in self.hangups if end.unique_id in {move.main_id, self.head}]
            party = self._talker(self.facts.legs.get(move.unique_id, Leg(at=move.at)))
            if over and party:
                met.append((max(move.at, min(over)), party))
        return met

    def _meetings(self, joins: list[Move], clients: frozenset[str]) -> list[tuple[datetime, datetime, str]]:
        """When the client met whom, and when that was told: from when both were in the bridge.

        One who waited there and left before the client came (a consultation), or in whose bridge the client was never
        told to be, met him there only if he never did elsewhere: the leaving may be told late, the coming be lost.
        """
        came = {move.bridge_id: move.at for move in reversed(joins) if move.unique_id in clients and move.bridge_id}
        leaves: dict[tuple[str, str], list[datetime]] = {}
        for move in self.facts.moves:
            if move.left:
                leaves.setdefault((move.unique_id, move.bridge_id), []).append(move.at)
        inside: dict[str, set[str]] = {}
        for move in joins:
            inside.setdefault(move.bridge_id, set()).add(move.unique_id)
        met: list[tuple[datetime, datetime, str]] = []
        missed: list[tuple[datetime, datetime, str]] = []
        for move in joins:
            came_at = came.get(move.bridge_id, move.at)
            at = min(move.at, came_at) if abs(came_at - move.at) <= PAIR else max(move.at, came_at)
            gone = any(move.at <= left_at < came_at for left_at in leaves.get((move.unique_id, move.bridge_id), ()))
            seen = not move.bridge_id or move.bridge_id in came
            (met if seen and not gone else missed).extend(
                (at, move.at, party) for party in self._met(move, inside[move.bridge_id], clients)
            )
        known = {party for *_, party in met}
        return [*met, *(meeting for meeting in missed if meeting[2] not in known)]

    def _met(self, move: Move, inside: set[str], clients: frozenset[str]) -> list[str]:
        """Whom the client met by this move: the others ``inside`` its bridge, or the one that the move itself names."""
        leg = self.facts.legs.get(move.unique_id, Leg(at=move.at))
        if not move.bridge_id:  # told without bridge ids: the entering channel is the one that answered
            party = self._talker(leg)
            return [party] if party else self._answered_outgoing(move, clients)
        others = inside - {move.unique_id}
        if self.direction is Direction.OUTGOING:
            dialled = any(dial.unique_id == move.unique_id == self.head for dial in self.dials)
            with_client = bool(clients & {move.unique_id, *others}) or dialled
            talker = next((uid for uid in (move.unique_id, *sorted(others)) if uid not in clients), "")
            party = self._talker(self.facts.legs.get(talker, leg)) or self._caller
            return [party] if with_client and party else []
        if move.unique_id in clients:
            if not others and self.plan.is_extension(bare(leg.connected_num)):
                return [bare(leg.connected_num)]
            return []
        if clients & others or (not clients and others):
            party = self._talker(leg)
            return [party] if party else []
        if not clients or (self.client and self.plan.canonical(leg.connected_num) == self.client):
            party = self._talker(leg)  # the client's own bridge event was lost; the connected line tells
            return [party] if party else []
        return []

    def _answered_outgoing(self, move: Move, clients: frozenset[str]) -> list[str]:
        caller = self._caller
        return [caller] if self.direction is Direction.OUTGOING and move.unique_id in clients and caller else []

    def _talker(self, leg: Leg) -> str:
        """The party behind a leg, ``""`` when it is the client himself or nobody is named."""
        device = peer(leg.channel)
        if self.plan.is_extension(device):
            return device
        number = device if is_local(leg.channel) else leg.num
        party = self._party(number) if number and not is_hidden(number) else ""
        return "" if party == self.client or party in self.trunks else party

    def _internal_talk(self, joins: list[Move]) -> _Talk:
        callees = self._rings
        if not joins or not callees:
            return _Talk()
        since = min(move.at for move in joins)
        return _Talk(callees[-1][:1], since, self._left_at(frozenset({self.head})), since)

    def _left_at(self, channels: frozenset[str]) -> datetime | None:
        """When the last of ``channels`` left its last bridge; ``None`` while one is inside or leaving was never told."""
        last: dict[str, Move] = {}
        for move in self.facts.moves:
            if move.unique_id in channels and move.bridge_id:
                known = last.get(move.unique_id)
                if known is None or (move.at, not move.left) >= (known.at, not known.left):
                    last[move.unique_id] = move
        if not last or not all(move.left for move in last.values()):
            return None
        return max(move.at for move in last.values())

    def _handed_on_at(self) -> datetime | None:
        """When the client of an outgoing call came into the bridge in which he now talks with another than who dialled.
        A leaving ends that whenever it is told."""
        if self.direction is not Direction.OUTGOING:
            return None
        left = {(move.unique_id, move.bridge_id) for move in self.facts.moves if move.left}
        inside = [move for move in self._joins if move.bridge_id and (move.unique_id, move.bridge_id) not in left]
        clients = self._client_channels()
        others = {move.bridge_id for move in inside if move.unique_id not in clients and move.unique_id != self.head}
        return max((m.at for m in inside if m.unique_id in clients and m.bridge_id in others), default=None)

    def _hung_up(self, end: Hangup) -> Side | None:
        """Who left the last bridge of two first. Not where the call went on after it, as when a transfer was not answered."""
        leaves = [move for move in self.facts.moves if move.left and move.unique_id in self._client_channels()]
        if not leaves or self.direction is Direction.INTERNAL or (end.call_type == 2 and end.status != "2"):
            return None
        last = max(leaves, key=lambda move: move.at)
        later = [told.at for told in self.dials] + [move.at for move in self._joins]
        if max(later, default=last.at) > last.at or abs(end.at - last.at) > ENDING:
            return None
        if last.n_channels == 1:
            return Side.CLIENT
        first = {move.n_channels for move in self.facts.moves if move.left and move.bridge_id == last.bridge_id}
        return Side.STAFF if last.n_channels == 0 and 1 in first else None

    @cached_property
    def _mobile_ends(self) -> list[Hangup]:
        return [hangup for hangup in self.facts.hangups if is_mobile_leg(hangup, self.plan)]

    def _named_by_hangup(self) -> tuple[str, ...]:
        if self.direction is Direction.OUTGOING:
            return (self._caller,) if self._caller else ()
        for end in self.ends:
            named = tuple(self._party(number) for number in end.extensions[:1])
            if named and named[0] not in {self.client, ""}:
                return named
        mobiles = [self.plan.canonical(end.phone) for end in self._mobile_ends if end.status in {"2", "5"}]
        return tuple(mobiles[:1])
