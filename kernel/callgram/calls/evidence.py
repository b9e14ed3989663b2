"""The evidence of one call, sorted once and asked: which way it goes, which channel it is, who is in it, by which line. Pure.

docs/calls.md has the rules as a table. How the call went is told by ``story``.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

from callgram.calls.call import Direction
from callgram.calls.facts import Facts, Move, Told
from callgram.numbers import NumberPlan, bare, is_hidden


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


class Evidence:
    """Weighed, never trusted singly: CallType lies, and hangups of inner and mobile legs end nothing."""

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

    @cached_property
    def _joins(self) -> list[Move]:
        return [move for move in self.facts.moves if not move.left]

    def _in_bridge(self, uid: str) -> bool:
        return any(move.unique_id == uid and not move.left for move in self.facts.moves)

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
