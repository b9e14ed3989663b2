"""The book of calls: which events belong to one call, decided by evidence, strongest first.

Strong keys (the same channel, Linkedid, bridge) always tie. Weak keys (the two halves of a Local channel, a number pair,
a mobile, a consultation) tie only when :func:`_ties` finds that both sides fit in time and role. The rules as a table:
docs/calls.md. Pure: the planner looks the keys up and hands the calls in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

import msgspec

from callgram.calls.facts import Facts, fold, merge, opened
from callgram.calls.story import Call, Direction, is_local, is_mobile_leg, local_pair, peer, tell
from callgram.calls.times import host_time
from callgram.events import Event, Kind
from callgram.numbers import NumberPlan, bare, is_hidden

EPOCH = re.compile(r"(\d{10})\.\d+$")
WEAK = ("local:", "pair:", "mobile:", "talk:", "consult:", "client:", "born:")
GRACE = timedelta(seconds=60)  # weak evidence this long after a call's end still belongs to it


class Touch(msgspec.Struct, frozen=True, kw_only=True):
    """What one event changed: the call that it belongs to now, and the calls that turned out to be the same one."""

    event: Event
    facts: Facts
    absorbed: tuple[int, ...] = ()


def is_weak(key: str) -> bool:
    return key.startswith(WEAK)


def strong_keys(event: Event) -> list[str]:
    """Linkedid is the UniqueId of a call's first channel, so the two share one name space."""
    ids = (event.unique_id, event.linked_id, event.main_id)
    keys = [f"channel:{uid}" for uid in dict.fromkeys(ids) if uid]
    return [*keys, f"bridge:{event.bridge_id}"] if event.bridge_id else keys


def weak_keys(event: Event, plan: NumberPlan) -> list[str]:
    """Keys that ``event`` both leaves behind and is looked up by."""
    keys = []
    pair = local_pair(event.channel)
    if pair:
        keys.append(f"local:{pair}")
    if event.kind is Kind.DIAL and event.extensions:
        phone = plan.canonical(event.phone)
        if event.call_type == 1 and not plan.is_extension(bare(event.extensions[0])):
            keys.append(f"mobile:{phone}:{plan.canonical(event.extensions[0])}")
        for number in event.extensions if phone and event.call_type != 2 else ():
            text = bare(number)
            inside = plan.is_extension(text)
            keys.append(f"pair:{text}:{phone}" if inside else f"mobile:{plan.canonical(text)}:{phone}")
    outward = event.kind is Kind.HANGUP and event.call_type == 1 and event.extensions
    if outward and not plan.is_extension(bare(event.extensions[0])):
        keys.append(f"mobile:{plan.canonical(event.phone)}:{plan.canonical(event.extensions[0])}")
    if event.kind in {Kind.BRIDGE, Kind.BRIDGE_LEAVE, Kind.NEW_CALLERID} and not is_local(event.channel):
        keys += _pair_of_leg(event, plan)
    keys += _born_with(event, keys, plan)
    return list(dict.fromkeys(keys))


def _born_with(event: Event, keys: list[str], plan: NumberPlan) -> list[str]:
    """The client of an outgoing leg and the second in which its host made the channel: ``born:<client>:<epoch>``."""
    born = EPOCH.search(event.unique_id)
    client = next((key.rpartition(":")[2] for key in keys if key.startswith("pair:")), "")
    rung = plan.is_extension(peer(event.channel)) and not event.exten
    if rung or event.call_type == 0:
        return []
    if event.kind is Kind.HANGUP and event.call_type == 1:
        client = plan.canonical(event.phone)
    return [f"born:{client}:{born[1]}"] if born and client else []


def _pair_of_leg(event: Event, plan: NumberPlan) -> list[str]:
    device, other = peer(event.channel), bare(event.connected_num)
    if plan.is_extension(device) and other and not is_hidden(other) and not plan.is_extension(other):
        return [f"pair:{device}:{plan.canonical(other)}"]
    if not plan.is_extension(device) and plan.is_extension(other) and not is_hidden(event.caller_num):
        return [f"pair:{other}:{plan.canonical(event.caller_num)}"]
    return []


def left_keys(event: Event, plan: NumberPlan) -> list[str]:
    """Keys that ``event`` only leaves behind: whose inner legs and consultations may come later."""
    device = peer(event.channel)
    if event.kind is Kind.BRIDGE and plan.is_extension(device):
        return [f"talk:{device}", *_consulting(event, plan)]
    if event.kind is Kind.START or (event.kind is Kind.DIAL and event.call_type == 0):
        client = plan.canonical(event.phone)
        return [f"client:{client}"] if client else []
    return _consulting(event, plan)


def _consulting(event: Event, plan: NumberPlan) -> list[str]:
    return [f"consult:{key.removeprefix('talk:')}" for key in consults(event, plan)]


def sought_keys(event: Event, plan: NumberPlan) -> list[str]:
    """Keys that ``event`` is only looked up by: the talk that it may consult about, the client whose inner leg it is."""
    if event.kind is Kind.HANGUP and event.call_type == 2 and not plan.is_extension(event.phone):
        client = plan.canonical(event.phone)
        return [f"client:{client}"] if client else []
    if is_local(event.channel):
        numbers = (bare(event.caller_num), bare(event.connected_num))
        outside = [number for number in numbers if not is_hidden(number) and not plan.is_extension(number)]
        if outside:
            return [f"client:{plan.canonical(outside[0])}", *_other_half(event)]
    device = peer(event.channel)
    talks = [f"consult:{device}"] if event.kind is Kind.BRIDGE and plan.is_extension(device) else []
    return [*consults(event, plan), *talks, *_other_half(event)]


def _other_half(event: Event) -> list[str]:
    """The channel made right before or after, where ``event`` may be of one half of a Local channel: Asterisk makes
    ``;1`` and then ``;2``, so that the second has the next counter."""
    found = re.fullmatch(r"(.*\.)(\d+)", event.unique_id)
    if found is None:
        return []
    if event.channel.endswith(";1"):
        return [f"channel:{found[1]}{int(found[2]) + 1}"]
    return [f"channel:{found[1]}{int(found[2]) - 1}"] if event.kind in {Kind.DIAL, Kind.HANGUP} else []


def consults(event: Event, plan: NumberPlan) -> list[str]:
    """Extensions that ``event`` shows calling inside: perhaps to consult about the talk that they are in."""
    caller = ""
    if event.kind in {Kind.DIAL, Kind.HANGUP} and event.call_type == 2:
        caller = event.phone
    elif event.kind in {Kind.BRIDGE, Kind.NEW_CALLERID} and plan.is_extension(bare(event.connected_num)):
        if is_local(event.channel) or event.exten not in {"", "s"}:
            caller = event.caller_num
        elif plan.is_extension(peer(event.channel)):
            caller = bare(event.connected_num)
    return [f"talk:{caller}"] if plan.is_extension(caller) else []


def lookup_keys(event: Event, plan: NumberPlan) -> list[str]:
    """Every key under which a call that ``event`` belongs to may be found."""
    return [*strong_keys(event), *weak_keys(event, plan), *sought_keys(event, plan)]


class Book:
    """The calls of one enterprise that a batch of events can touch. Feed it events in order of arrival."""

    def __init__(self, plan: NumberPlan) -> None:
        self.plan = plan
        self.calls: dict[int, Facts] = {}
        self._index: dict[str, set[int]] = {}
        self._keys: dict[int, set[str]] = {}
        self.new_keys: dict[int, set[str]] = {}
        self._told: dict[int, tuple[Facts, Call]] = {}

    def told(self, facts: Facts) -> Call:
        """``tell(facts)``, told once as long as the facts stay the same."""
        known = self._told.get(facts.id)
        if known is None or known[0] is not facts:
            known = self._told[facts.id] = (facts, tell(facts, self.plan))
        return known[1]

    def add(self, facts: Facts, keys: Iterable[str]) -> None:
        """Put in a call that the store knows, under the keys by which it was found."""
        self.calls[facts.id] = facts
        for key in keys:
            self._index.setdefault(key, set()).add(facts.id)
            self._keys.setdefault(facts.id, set()).add(key)

    def apply(self, event: Event) -> Touch:
        """Find the call of ``event`` (or open one), fold it in, and merge what it ties together."""
        strong, weak = strong_keys(event), weak_keys(event, self.plan)
        tied = {call for key in strong for call in self._index.get(key, ())}
        facts = fold(self.calls[min(tied)], event) if tied else opened(event)
        absorbed: list[int] = []
        self.calls[facts.id] = facts
        others = [self.calls[call] for call in sorted(tied - {facts.id})]
        for other in others:
            facts = self._absorb(facts, other, absorbed)
        for key in (*weak, *sought_keys(event, self.plan)):
            while (fragment := self._tied(key, facts, event)) is not None:
                facts = self._absorb(facts, fragment, absorbed)
        self._file(facts, [*strong, *weak, *left_keys(event, self.plan)])
        return Touch(event=event, facts=facts, absorbed=tuple(absorbed))

    def close(self, call_id: int, timer: Event) -> Touch:
        """The call's own clock ran out: fold that in. Nothing is correlated by it."""
        facts = self.calls[call_id] = fold(self.calls[call_id], timer)
        return Touch(event=timer, facts=facts)

    def _tied(self, key: str, facts: Facts, event: Event) -> Facts | None:
        """The call that a weak key ties to ``facts``: the latest that fits, or none where a choice would be a guess."""
        known = (self.calls[call] for call in sorted(self._index.get(key, set()) - {facts.id}, reverse=True))
        fitting = [other for other in known if _ties(key, facts, other, event, self)]
        fitting = [other for other in fitting if not self.told(other).ended] or fitting
        if len(fitting) < 2 or key.startswith("client:"):
            return fitting[0] if len(fitting) == 1 else None
        if not key.startswith("pair:"):
            return fitting[0]
        if _is_fragment(facts):
            return None  # its other half comes by a strong key
        return fitting[0]

    def _absorb(self, facts: Facts, other: Facts, absorbed: list[int]) -> Facts:
        merged = merge(facts, other)
        loser = other.id if merged.id == facts.id else facts.id
        absorbed.append(loser)
        self._told.pop(loser, None)
        self.calls.pop(loser)
        self.calls[merged.id] = merged
        lost = self._keys.pop(loser, set())
        for key in lost:
            self._index[key].discard(loser)
            self._index[key].add(merged.id)
        self._keys.setdefault(merged.id, set()).update(lost)
        self.new_keys.setdefault(merged.id, set()).update(lost)
        self.new_keys.setdefault(merged.id, set()).update(self.new_keys.pop(loser, set()))
        return merged

    def _file(self, facts: Facts, keys: Iterable[str]) -> None:
        for key in keys:
            calls = self._index.setdefault(key, set())
            if facts.id not in calls:
                calls.add(facts.id)
                self._keys.setdefault(facts.id, set()).add(key)
                self.new_keys.setdefault(facts.id, set()).add(key)


def _ties(key: str, one: Facts, other: Facts, event: Event, book: Book) -> bool:
    """Whether a weak key that two calls share makes them one call. Both must be alive at the same time."""
    if not _overlap(one, other, book):
        return False
    if key.startswith("local:"):
        return True
    if key.startswith("pair:"):  # a fragment (bridges only) and the call that it is a part of
        fragment, call = (one, other) if _is_fragment(one) else (other, one)
        return _is_fragment(fragment) and _is_told(call) and not _seats(fragment) & _seats(call)
    if key.startswith("mobile:"):
        return _is_mobile(one, book.plan) != _is_mobile(other, book.plan)
    if key.startswith("born:"):
        return _are_parts(one, other)
    if key.startswith("channel:"):
        return _are_halves(one, other) or _are_halves(other, one)
    if key.startswith("client:"):
        return bool(other.starts) and (_is_inner_leg(one) or _only_inner_ends(one))
    if key.startswith("consult:"):  # the talk is told after the consultation about it
        return _consults(one, other, key.removeprefix("consult:"), event, book) and _follows(other, one)
    return _consults(other, one, key.removeprefix("talk:"), event, book)


def _overlap(one: Facts, other: Facts, book: Book) -> bool:
    first, second = sorted((one, other), key=lambda facts: facts.first_at)
    told = book.told(first)
    if told.ended_at is None:
        return True
    lasted_s = max((told.ended_at - first.first_at).total_seconds(), _host_lasted_s(told))
    return second.first_at <= told.ended_at + GRACE and not _born_after(second, first, lasted_s)


def _born_after(later: Facts, earlier: Facts, lasted_s: float) -> bool:
    """Every channel of ``later`` was made after ``earlier`` had ended, by the host's own clock (``epoch.counter``)."""
    head, births = _births(earlier), _births(later)
    if not head or not births:
        return False
    return min(births) - min(head) > lasted_s + 1


def _order(uid: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)$", uid)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _births(facts: Facts) -> list[int]:
    """When the host made the channels of a call, Unix seconds by its own clock, as far as their UniqueIds tell."""
    told = {ring.unique_id for ring in (*facts.starts, *facts.dials, *facts.hangups)}
    channels = told | {move.unique_id for move in facts.moves} | facts.legs.keys()
    return [int(found[1]) for uid in channels if (found := EPOCH.search(uid))]


def _is_fragment(facts: Facts) -> bool:
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


def _is_inner(facts: Facts, book: Book) -> bool:
    return not facts.starts and book.told(facts).direction is Direction.INTERNAL


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


def _consults(main: Facts, inner: Facts, extension: str, event: Event, book: Book) -> bool:
    """``inner`` is an internal call of an extension that talks with somebody outside in ``main``, which goes on."""
    told = book.told(main)
    if told.direction is Direction.INTERNAL or not _is_inner(inner, book):
        return False
    return _talks(main, extension, event) and (not told.ended or _made_before_end(inner, told))


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
    births = _births(earlier)
    return bool(births) and min(_births(later), default=0) > min(births)


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


def _talks(facts: Facts, extension: str, event: Event) -> bool:
    """The extension is inside a bridge of the call now (entered, and not left since)."""
    last: dict[str, bool] = {}
    for move in facts.moves:
        leg = facts.legs.get(move.unique_id)
        if leg and peer(leg.channel) == extension and move.at <= event.received_at:
            last[f"{move.unique_id} {move.bridge_id}"] = not move.left
    return any(last.values())
