"""The keys of an event: under which a call is found, and which it leaves behind for others to find. Pure.

Strong keys (the same channel, Linkedid, bridge) always tie. Weak keys (the two halves of a Local channel, a number pair,
a mobile, a consultation) only where :mod:`callgram.calls.ties` finds that both sides fit. The rules as a table:
docs/calls.md.
"""

from __future__ import annotations

import re

from callgram.calls.evidence import is_local, local_pair, peer
from callgram.events import Event, Kind
from callgram.numbers import NumberPlan, bare, is_hidden

EPOCH = re.compile(r"([0-9]{10})\.[0-9]+$")  # when the host made a channel: epoch.counter
COUNTER = re.compile(r"(.*)\.([0-9]{1,18})", re.DOTALL)  # and the how manyth channel since it was started
WEAK = ("local:", "pair:", "mobile:", "talk:", "consult:", "client:", "born:")


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
    talks = [f"talk:{extension}" for extension in _talking(event, plan)]
    if talks:
        return [*talks, *_consulting(event, plan)]
    if event.kind is Kind.START or (event.kind is Kind.DIAL and event.call_type == 0):
        client = plan.canonical(event.phone)
        return [f"client:{client}"] if client else []
    return _consulting(event, plan)


def _talking(event: Event, plan: NumberPlan) -> list[str]:
    """Extensions that ``event`` shows in a talk: by their device in a bridge, or as who answered a call that ended."""
    if event.kind is Kind.BRIDGE:
        device = peer(event.channel)
        return [device] if plan.is_extension(device) else []
    if event.kind is Kind.HANGUP and event.call_type in {0, 1} and event.status in {"2", "5"}:
        return [number for number in map(bare, event.extensions) if plan.is_extension(number)]
    return []


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
    talks = [f"consult:{extension}" for extension in _talking(event, plan)]
    return [*consults(event, plan), *talks, *_other_half(event)]


def _other_half(event: Event) -> list[str]:
    """The channel made right before or after, where ``event`` may be of one half of a Local channel: Asterisk makes
    ``;1`` and then ``;2``, so that the second has the next counter."""
    found = COUNTER.fullmatch(event.unique_id)
    if found is None:
        return []
    if event.channel.endswith(";1"):
        return [f"channel:{found[1]}.{int(found[2]) + 1}"]
    return [f"channel:{found[1]}.{int(found[2]) - 1}"] if event.kind in {Kind.DIAL, Kind.HANGUP} else []


def consults(event: Event, plan: NumberPlan) -> list[str]:
    """Extensions that ``event`` shows calling inside: perhaps to consult about the talk that they are in."""
    caller = ""
    if event.kind in {Kind.DIAL, Kind.HANGUP} and event.call_type == 2:
        caller = event.phone
    elif event.kind in {Kind.BRIDGE, Kind.NEW_CALLERID} and plan.is_extension(bare(event.connected_num)):
        both = (event.caller_num, bare(event.connected_num))
        if is_local(event.channel):  # made by the one who calls, for the one whom its name tells
            caller = next((number for number in both if bare(number) != peer(event.channel)), "")
        elif event.exten not in {"", "s"}:
            caller = event.caller_num
        elif plan.is_extension(peer(event.channel)):
            caller = bare(event.connected_num)
    return [f"talk:{caller}"] if plan.is_extension(caller) else []


def lookup_keys(event: Event, plan: NumberPlan) -> list[str]:
    """Every key under which a call that ``event`` belongs to may be found."""
    return [*strong_keys(event), *weak_keys(event, plan), *sought_keys(event, plan)]
