"""Whether a weak key that two calls share makes them one call: both must be alive at the same time, and fit in role. Pure.

The rules as a table: docs/calls.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from callgram.calls.call import Call, Direction
from callgram.calls.evidence import is_local, is_mobile_leg, peer
from callgram.calls.facts import Facts, Move
from callgram.calls.keys import COUNTER, EPOCH
from callgram.calls.times import host_time
from callgram.numbers import NumberPlan

GRACE = timedelta(seconds=60)  # weak evidence this long after a call's end still belongs to it
TURN = timedelta(seconds=5)  # who left a bridge may be on the way into the next one


Teller = Callable[[Facts], Call]


def ties(key: str, one: Facts, other: Facts, *, at: datetime, told: Teller, plan: NumberPlan) -> bool:
    """Whether the weak ``key``, sought by ``one`` and left by ``other``, makes them one call. ``at``: when it was sought."""
    if not _overlap(one, other, told):
        return False
    sort, _, rest = key.partition(":")
    match sort:
        case "local":
            return True
        case "pair":  # a fragment and the call that it is a part of
            fragment, call = (one, other) if is_fragment(one) else (other, one)
            return is_fragment(fragment) and _is_told(call) and not _seats(fragment) & _seats(call)
        case "mobile":
            return _is_mobile(one, plan) != _is_mobile(other, plan)
        case "born":
            return _are_parts(one, other)
        case "channel":
            return _are_halves(one, other) or _are_halves(other, one)
        case "client":
            return bool(other.starts) and (_is_inner_leg(one) or _only_inner_ends(one))
        case "consult":  # the talk is told after the consultation about it
            return _consults(one, other, rest, at, told) and not _talked_before(one, rest, at)
        case _:
            return _consults(other, one, rest, at, told)


def _overlap(one: Facts, other: Facts, told: Teller) -> bool:
    first, second = sorted((one, other), key=lambda facts: facts.first_at)
    call = told(first)
    if call.ended_at is None:
        return True
    lasted_s = max((call.ended_at - first.first_at).total_seconds(), _host_lasted_s(call))
    return second.first_at <= call.ended_at + GRACE and not _born_after(second, first, lasted_s)


def _born_after(later: Facts, earlier: Facts, lasted_s: float) -> bool:
    """Every channel of ``later`` was made after ``earlier`` had ended, by the host's own clock (``epoch.counter``)."""
    head, births = _births(earlier), _births(later)
    if not head or not births:
        return False
    return min(births) - min(head) > lasted_s + 1


def _order(uid: str) -> tuple[int, int]:
    """Epoch and counter, ``(0, 0)`` of an id that has none."""
    epoch, counter = EPOCH.search(uid), COUNTER.fullmatch(uid)
    return (int(epoch[1]), int(counter[2])) if epoch and counter else (0, 0)


def _births(facts: Facts) -> list[int]:
    """When the host made the channels of a call, Unix seconds by its own clock, as far as their UniqueIds tell."""
    return [int(found[1]) for uid in _channels(facts) if (found := EPOCH.search(uid))]


def _channels(facts: Facts) -> set[str]:
    told = {ring.unique_id for ring in (*facts.starts, *facts.dials, *facts.hangups)}
    return told | {move.unique_id for move in facts.moves} | facts.legs.keys()


def is_fragment(facts: Facts) -> bool:
    """Bridges only: no event says which call they are."""
    return bool(facts.moves) and not _is_told(facts)


def _is_told(facts: Facts) -> bool:
    return bool(facts.starts or facts.dials or any(hangup.call_type in {0, 1} for hangup in facts.hangups))


def _is_mobile(facts: Facts, plan: NumberPlan) -> bool:
    rings = (*facts.dials, *facts.hangups)
    return (
        not facts.starts
        and any(is_mobile_leg(ring, plan) for ring in rings)
        and all(is_mobile_leg(ring, plan) for ring in rings)
    )


def _is_inner_leg(facts: Facts) -> bool:
    """Nothing but the halves of Local channels: legs that the dialplan made inside of a call."""
    local = {uid for uid, leg in facts.legs.items() if is_local(leg.channel)}
    rings = (*facts.starts, *facts.dials, *facts.hangups)
    return local.issuperset(facts.legs) and all(ring.unique_id in local for ring in rings)


def _only_inner_ends(facts: Facts) -> bool:
    """Nothing but CallType 2 hangups (and moves): the end of a leg, never the beginning of a call with a client."""
    return bool(facts.hangups) and not facts.starts and not facts.dials and all(h.call_type == 2 for h in facts.hangups)


def _are_parts(one: Facts, other: Facts) -> bool:
    """Of two that were made for one client in one second, whether one is nothing but legs of the other. A trunk's leg is
    made after the channel that dials; a manager's own may come first, where a CRM calls him first."""
    call, legs = (one, other) if _is_told(one) else (other, one)
    if _is_told(legs):
        return False
    if not _is_told(call):
        return bool(one.moves and other.moves)
    head = min((_order(ring.unique_id) for ring in (*call.dials, *call.hangups)), default=(0, 0))
    dialled = [
        _order(uid) for uid, leg in legs.legs.items() if peer(leg.channel) in {ring.trunk for ring in call.dials}
    ]
    return bool(legs.moves or dialled) and all(made > head for made in dialled)


def _seats(facts: Facts) -> set[str]:
    """The devices that are in a bridge of the call: a second channel of one is of another call."""
    inside = {move.unique_id for move in facts.moves}
    return {peer(leg.channel) for uid, leg in facts.legs.items() if uid in inside and not is_local(leg.channel)}


def _consults(main: Facts, inner: Facts, extension: str, at: datetime, told: Teller) -> bool:
    """``inner`` is an internal call of an extension that talks with somebody outside in ``main``, which goes on."""
    call = told(main)
    if call.direction is Direction.INTERNAL or inner.starts or told(inner).direction is not Direction.INTERNAL:
        return False
    if call.ended and not _made_before_end(inner, call):
        return False
    named = not main.moves and extension in call.talkers  # by the hangup: no bridge of it was told
    return (named or _talks(main, extension, at)) and _follows(inner, main)


def _made_before_end(inner: Facts, told: Call) -> bool:
    """By the host's own clock: what it says that the call lasted, counted from when it made the call's channel."""
    began, births = EPOCH.search(told.unique_id), _births(inner)
    return began is not None and bool(births) and min(births) - int(began[1]) < _host_lasted_s(told)


def _host_lasted_s(told: Call) -> float:
    """How long the call was by the host's clock, 0 where it doesn't say."""
    began, ended = host_time(told.host_start, "UTC"), host_time(told.host_end, "UTC")  # the zone makes no difference
    return (ended - began).total_seconds() if began and ended else 0.0


def _follows(later: Facts, earlier: Facts) -> bool:
    """The host made every channel of ``later`` after the first one of ``earlier``."""
    made = [order for order in map(_order, _channels(earlier)) if order > (0, 0)]
    return bool(made) and min(map(_order, _channels(later)), default=(0, 0)) > min(made)


def _are_halves(one: Facts, other: Facts) -> bool:
    """``one`` knows a ``;1`` whose next counter is a channel that dials or ends in ``other``, with nothing against it."""
    seconds = {_order(uid)[1] + 1: uid for uid, leg in one.legs.items() if leg.channel.endswith(";1")}
    for ring in (*other.dials, *other.hangups):
        first = seconds.get(_order(ring.unique_id)[1])
        if first and ring.unique_id not in other.legs and _same_second(first, ring.unique_id):
            return True
    return False


def _same_second(one: str, other: str) -> bool:
    return one.rpartition(".")[0] == other.rpartition(".")[0]


def talked(facts: Facts, extension: str, at: datetime) -> bool:
    """The extension is inside a bridge of the call at ``at``, or left it so shortly before that it may be between two."""
    return _talks(facts, extension, at, turn=TURN)


def _talks(facts: Facts, extension: str, at: datetime, *, turn: timedelta = timedelta(0)) -> bool:
    """The extension is inside a bridge of the call at ``at``: entered, and not left since, but for the last ``turn``."""
    last = {(move.unique_id, move.bridge_id): move for move in _moves_of(facts, extension) if move.at <= at}
    return any(not move.left or at - move.at < turn for move in last.values())


def _talked_before(facts: Facts, extension: str, at: datetime) -> bool:
    """That the extension talks in this call was known before ``at``: a consultation then sought it, and did not fit."""
    return any(move.at < at for move in _moves_of(facts, extension))


def _moves_of(facts: Facts, extension: str) -> list[Move]:
    legs = {uid for uid, leg in facts.legs.items() if peer(leg.channel) == extension}
    return [move for move in facts.moves if move.unique_id in legs]
