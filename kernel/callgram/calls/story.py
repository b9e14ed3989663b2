"""The story of a call: what its facts mean. ``tell`` is pure and gives the :class:`Call` that every plugin sees.

Evidence is weighed, never trusted singly: CallType and CallStatus lie, hangups of inner and mobile legs end nothing, and
a bridge between the client and anybody else means answered whatever the hangup says (docs/calls.md has the table).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property, lru_cache

import msgspec

from callgram.calls.call import Call, Cause, Direction, Result
from callgram.calls.facts import Facts, Hangup, Leg, Move, Told
from callgram.calls.times import LATE_S, clock_is_off, host_times
from callgram.numbers import NumberPlan, bare, is_hidden

__all__ = ["Call", "Cause", "Direction", "Result", "is_local", "is_mobile_leg", "local_pair", "peer", "tell"]


Q850 = {
    "1": Cause.WRONG_NUMBER, "28": Cause.WRONG_NUMBER, "17": Cause.BUSY, "21": Cause.REJECTED, "3": Cause.UNAVAILABLE,
    "20": Cause.UNAVAILABLE, "27": Cause.UNAVAILABLE, "34": Cause.CONGESTION, "38": Cause.CONGESTION,
    "42": Cause.CONGESTION, "44": Cause.CONGESTION,
}  # fmt: skip
DIAL_STATUS = {"BUSY": Cause.BUSY, "CHANUNAVAIL": Cause.UNAVAILABLE, "CONGESTION": Cause.CONGESTION}


PAIR = timedelta(seconds=2)  # the two posts of one meeting are 0.3 to 1.5 s apart: the first of them is when it began


@lru_cache(16_384)
def peer(channel: str) -> str:
    """The device of a channel name: ``SIP/150-0000002b`` → ``150``, ``Local/152@ctx-00000001;2`` → ``152``."""
    name = channel.partition("/")[2]
    if is_local(channel):
        return name.partition("@")[0]
    return name.rpartition("-")[0] or name


def is_local(channel: str) -> bool:
    return channel.startswith("Local/")


def local_pair(channel: str) -> str:
    """The part of a Local channel's name that its two halves share, ``""`` for another channel."""
    return channel.rpartition(";")[0] if is_local(channel) else ""


def is_mobile_leg(ring: Told, plan: NumberPlan) -> bool:
    """A forward to a mobile is dialled and hung up as an outgoing call whose "manager" is the client's number."""
    return (
        ring.call_type == 1
        and bool(ring.extensions)
        and not any(plan.is_extension(bare(number)) for number in ring.extensions)
        and plan.canonical(ring.extensions[0]) != plan.canonical(ring.phone)
    )


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


class _Story:
    """One telling: the evidence of one call sorted once, then asked. Lives for the length of :func:`tell`."""

    def __init__(self, facts: Facts, plan: NumberPlan) -> None:
        self.facts, self.plan = facts, plan
        self.trunks = {ring.trunk for ring in (*facts.starts, *facts.dials, *facts.hangups) if ring.trunk}
        inner = [ring.unique_id for ring in facts.dials if is_mobile_leg(ring, plan)]
        inner += [uid for uid, leg in facts.legs.items() if is_local(leg.channel)]
        self.inner = frozenset(inner)
        self.dials = [dial for dial in facts.dials if not is_mobile_leg(dial, plan)]
        self.hangups = [hangup for hangup in facts.hangups if hangup.unique_id not in self.inner]
        self.hangups = [hangup for hangup in self.hangups if not is_mobile_leg(hangup, plan)]
        self.direction, self.head = self._direction_and_head()
        self.ends = [hangup for hangup in self.hangups if hangup.unique_id == self.head]
        self.client = "" if self.direction is Direction.INTERNAL else self._client()

    def call(self) -> Call:
        facts = self.facts
        talk = self._talk()
        talkers, answered_at, left_at = talk.order, talk.since, talk.left_at
        answered = bool(talkers) or any(end.status in {"2", "5"} for end in (self.ends or self._mobile_ends))
        if answered and not talkers:
            talkers = self._named_by_hangup()
        closed = facts.closed_at is not None and facts.closed_at >= facts.last_at and not self.ends
        ended_at = max(end.at for end in self.ends) if self.ends else facts.closed_at if closed else None
        ended = ended_at is not None
        end = self.ends[-1] if self.ends else None
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
            talk_s=_seconds(answered_at, left_at or over_at) if ended else None,
            wait_s=_seconds(facts.first_at, over_at) if not answered else None,
            left_at=left_at,
            host_start=end.start_time if end else "",
            host_end=end.end_time if end else "",
            host_began_at=host_began_at,
            host_ended_at=host_ended_at,
            doubt=doubt,
            talking_since=None if ended else talk.now_since,
            cause=_cause(end) if end and not answered else None,
            names=found.names if found else {},
            history=found.history if found else None,
            recording=facts.recording,
            recording_link=found.recording if found else "",
        )

    def _host_times(self, end: Hangup | None) -> tuple[datetime | None, datetime | None, str]:
        if end is None:
            return None, None, ""
        began, ended, doubt = host_times(end.start_time, end.end_time, end.at, self.plan.zone)
        if began and ended and clock_is_off(began, ended, self.facts.first_at, end.at):
            return None, None, "the host's clock or zone is off"
        return began, ended, doubt

    # Which way, and which channel is the call

    def _direction_and_head(self) -> tuple[Direction, str]:
        """The strongest evidence decides; its channel is the head, whose hangup ends the call."""
        for direction, rings in (
            (Direction.INCOMING, self.facts.starts),
            (Direction.INCOMING, [dial for dial in self.dials if dial.call_type == 0 and self._outside(dial)]),
            (Direction.OUTGOING, [dial for dial in self.dials if dial.call_type == 1]),
            (Direction.OUTGOING, [hangup for hangup in self.hangups if hangup.call_type == 1]),
            (
                Direction.INCOMING,
                [hangup for hangup in self.hangups if hangup.call_type == 0 and self._outside(hangup)],
            ),
        ):
            outer = [ring for ring in rings if ring.unique_id not in self.inner]
            if outer:
                return direction, outer[0].unique_id
        return self._weak_direction_and_head()

    def _weak_direction_and_head(self) -> tuple[Direction, str]:
        """No start, no outside dial, no outside hangup of a known type: mobile legs, bridges and CallType 2 remain."""
        if any(is_mobile_leg(ring, self.plan) for ring in (*self.facts.dials, *self.facts.hangups)):
            return Direction.INCOMING, ""
        for hangup in self.hangups:
            if hangup.call_type == 2 and hangup.phone and self._outside(hangup):
                return Direction.INCOMING, hangup.unique_id  # a blind-transferred client: CallType 2, outside Phone
        for uid, leg in self.facts.legs.items():
            if is_local(leg.channel) or not self._in_bridge(uid):
                continue
            own_ext = self.plan.is_extension(peer(leg.channel))
            if own_ext and self._outside_number(leg.connected_num, leg.exten):
                return (Direction.OUTGOING if leg.exten else Direction.INCOMING), uid if leg.exten else ""
            dials_itself = leg.exten and self.plan.canonical(leg.exten) == self.plan.canonical(leg.num)
            if not own_ext and dials_itself:
                return Direction.OUTGOING, ""
            if not own_ext and peer(leg.channel):
                return (Direction.INCOMING if leg.exten else Direction.OUTGOING), uid if leg.exten else ""
        return Direction.INTERNAL, self._internal_head()

    def _internal_head(self) -> str:
        for ring in (*self.dials, *self.hangups):
            if ring.unique_id not in self.inner:
                return ring.unique_id
        callers = [
            uid
            for uid, leg in self.facts.legs.items()
            if leg.exten not in {"", "s"} and not is_local(leg.channel) and self.facts.moves
        ]
        return callers[0] if callers else ""

    def _outside(self, ring: Told) -> bool:
        """The Phone of a ring is an outside party (or hidden) rather than one of the enterprise's extensions."""
        return not (self.plan.is_extension(ring.phone) and not ring.trunk)

    def _outside_number(self, *numbers: str) -> str:
        for number in numbers:
            text = bare(number)
            if text and not is_hidden(text) and text not in self.trunks and not self.plan.is_extension(text):
                return self.plan.canonical(text)
        return ""

    # Who

    def _client(self) -> str:
        mobile_clients = [ring.extensions[0] for ring in self.facts.dials if is_mobile_leg(ring, self.plan)]
        own = [
            ring.phone for ring in (*self.facts.starts, *self.dials, *self.ends, *self.hangups) if ring.call_type != 2
        ]
        own += [ring.phone for ring in (*self.dials, *self.ends, *self.hangups) if ring.call_type == 2]
        for phone in own:
            if not is_hidden(phone) and phone not in self.trunks and phone not in self._inside:
                return self.plan.canonical(phone)
        head = self.facts.legs.get(self.head)
        numbers = [*mobile_clients]
        if head:
            numbers += [head.num, head.connected_num, head.exten]
        for leg in self.facts.legs.values():
            own_ext = self.plan.is_extension(peer(leg.channel))
            numbers += [leg.connected_num, leg.exten] if own_ext else [leg.num] if not is_local(leg.channel) else []
        return self._outside_number(*numbers)

    @cached_property
    def _inside(self) -> frozenset[str]:
        """Extensions that this call names as such: devices of channels and whom dials ring."""
        rung = {bare(number) for dial in self.dials if dial.call_type == 0 for number in dial.extensions}
        peers = {peer(leg.channel) for leg in self.facts.legs.values()}
        managers = {bare(number) for dial in self.dials if dial.call_type != 0 for number in dial.extensions}
        return frozenset(number for number in rung | peers | managers if self.plan.is_extension(number))

    @cached_property
    def _caller(self) -> str:
        if self.direction is Direction.INCOMING:
            return ""
        if self.direction is Direction.OUTGOING:
            named = [
                bare(number) for ring in (*self.dials, *self.ends) if ring.call_type == 1 for number in ring.extensions
            ]
        else:
            named = [ring.phone for ring in (*self.dials, *self.ends)]
        named += [peer(leg.channel) for uid, leg in self.facts.legs.items() if uid == self.head]
        named += [peer(leg.channel) for leg in self.facts.legs.values() if leg.exten not in {"", "s"}]
        named += [leg.connected_num for leg in self.facts.legs.values()]
        return next((number for number in named if self.plan.is_extension(number)), "")

    @cached_property
    def _rings(self) -> list[tuple[str, ...]]:
        """The extensions of each dial step, in order; in an outgoing call nobody of ours rings."""
        if self.direction is Direction.OUTGOING:
            return []
        steps = [tuple(self._party(number) for number in dial.extensions) for dial in self.dials if dial.call_type != 1]
        if self.direction is Direction.INTERNAL and not steps:
            caller = self._caller
            legs = self.facts.legs.values()
            named = [number for end in self.ends for number in end.extensions]
            named += [number for leg in legs for number in (peer(leg.channel), leg.connected_num, leg.exten)]
            callees = [
                bare(number) for number in named if self.plan.is_extension(bare(number)) and bare(number) != caller
            ]
            steps = [(callees[0],)] if callees else []
        return [step for step in steps if step]

    def _party(self, number: str) -> str:
        text = bare(number)
        return text if self.plan.is_extension(text) else self.plan.canonical(text)

    def _line(self) -> str:
        """The trunk really used: the hangup knows after a failover; before it, the last line tried."""
        own = [ring for ring in (*self.facts.starts, *self.dials) if ring.unique_id == self.head and ring.trunk]
        ends = [end.trunk for end in self.ends if end.trunk]
        if ends:
            return ends[-1]
        if own:
            return own[-1].trunk
        if self.direction is Direction.INTERNAL:
            return ""
        trunks = [peer(leg.channel) for leg in self.facts.legs.values() if not is_local(leg.channel)]
        return next((name for name in trunks if name and not self.plan.is_extension(name)), "")

    # Talk

    def _in_bridge(self, uid: str) -> bool:
        return any(move.unique_id == uid and not move.left for move in self.facts.moves)

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
        joins = [move for move in self.facts.moves if not move.left]
        if self.direction is Direction.INTERNAL:
            return self._internal_talk(joins)
        clients = self._client_channels()
        meetings = self._meetings(joins, clients)
        if not meetings:
            return _Talk()
        order: list[str] = []
        since = now_since = min(told_at for _, told_at, _ in meetings)
        for at, _, party in sorted(meetings):
            if not order or party != order[-1]:
                order.append(party)
                now_since = at
        return _Talk(tuple(order), since, self._left_at(clients), now_since)

    def _meetings(self, joins: list[Move], clients: frozenset[str]) -> list[tuple[datetime, datetime, str]]:
        """When the client met whom, and when that was told: from when both were in the bridge.

        One who waited there and left before the client came (a consultation) met him there only if he never did
        elsewhere: the leaving may be told late.
        """
        came = {move.bridge_id: move.at for move in reversed(joins) if move.unique_id in clients and move.bridge_id}
        leaves: dict[tuple[str, str], list[datetime]] = {}
        for move in self.facts.moves:
            if move.left:
                leaves.setdefault((move.unique_id, move.bridge_id), []).append(move.at)
        met: list[tuple[datetime, datetime, str]] = []
        missed: list[tuple[datetime, datetime, str]] = []
        for move in joins:
            came_at = came.get(move.bridge_id, move.at)
            at = min(move.at, came_at) if abs(came_at - move.at) <= PAIR else max(move.at, came_at)
            gone = any(move.at <= left_at < came_at for left_at in leaves.get((move.unique_id, move.bridge_id), ()))
            (missed if gone else met).extend((at, move.at, party) for party in self._met(move, joins, clients))
        known = {party for *_, party in met}
        return [*met, *(meeting for meeting in missed if meeting[2] not in known)]

    def _met(self, move: Move, joins: list[Move], clients: frozenset[str]) -> list[str]:
        """Whom the client met by this move: the others in its bridge, or the one that the move itself names."""
        leg = self.facts.legs.get(move.unique_id, Leg(at=move.at))
        if not move.bridge_id:  # told without bridge ids: the entering channel is the one that answered
            party = self._talker(leg)
            return [party] if party else self._answered_outgoing(move, clients)
        others = {other.unique_id for other in joins if other.bridge_id == move.bridge_id} - {move.unique_id}
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
