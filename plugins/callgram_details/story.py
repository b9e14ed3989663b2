"""The story of a call for its page: the result in words, facts, badges, and what is missing. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from callgram import Action, Call, CallFile, Direction, Event, Listed, Op, Result, Stage
from callgram_details.wording import Wording

LATE_S = 60.0  # a hangup that comes so long after the end that the host wrote is a late one


class Fact(msgspec.Struct, frozen=True):
    label: str
    value: str


class Badge(msgspec.Struct, frozen=True):
    kind: str
    text: str
    url: str = ""


def split(file: CallFile) -> tuple[list[Event], list[Action]]:
    """The events and the actions of a call, each oldest first."""
    items = [record.item for record in file.records]
    return [item for item in items if isinstance(item, Event)], [item for item in items if isinstance(item, Action)]


def names_of(call: CallFile | Listed) -> dict[str, str]:
    """``{number or extension: name}`` as they were found or the channels told them; a name that is only a number says
    nothing."""
    names: dict[str, str] = dict(call.facts.found.names) if call.facts.found else {}
    for leg in call.facts.legs.values():
        for number, name in ((leg.num, leg.name), (leg.connected_num, leg.connected_name)):
            if number and any(char.isalpha() for char in name):
                names.setdefault(number, name)
    return names


def result_words(call: Call, names: dict[str, str], words: Wording) -> str:
    """``Принят 151 Иванов, 2 мин 14 с``."""
    text = _result(call, names, words)
    return f"{text}; {words['closed']}" if call.closed else text


def _result(call: Call, names: dict[str, str], words: Wording) -> str:
    if call.result is Result.LIVE:
        return _live(call, names, words)
    if call.result is Result.ANSWERED:
        talkers = call.talkers if call.direction is not Direction.INTERNAL else (call.caller, *call.talkers)
        joint = " → " if call.direction is not Direction.INTERNAL else " ↔ "
        who = words.parties([number for number in dict.fromkeys(talkers) if number], names, joint=joint)
        if not who:
            return words["answered_unknown"]
        key = f"answered_{call.direction}"
        if call.talk_s is None:
            return words.say(f"{key}_untimed", who=who)
        return words.say(key, who=who, talk=words.span(call.talk_s))
    if call.direction is Direction.INCOMING:
        if not call.rung:
            return words["missed_incoming_none"]
        if len(call.rung) == 1:
            return words.say("missed_incoming_one", who=words.party(call.rung[0], names))
        return words.say("missed_incoming_many", n=len(call.rung))
    who = call.caller if call.direction is Direction.OUTGOING else next(iter(call.rung), "")
    key = f"missed_{call.direction}"
    return words.say(key, who=words.party(who, names)) if who else words[f"{key}_untold"]


def _live(call: Call, names: dict[str, str], words: Wording) -> str:
    if call.talkers and call.left_at is None:
        return words.say("live_talking", who=words.parties(call.talkers[-1:], names))
    ringing = call.ringing or ((call.client,) if call.direction is Direction.OUTGOING and call.client else ())
    return words.say("live_ringing", who=words.parties(ringing, names)) if ringing else words["live_started"]


def facts_of(file: CallFile, call: Call, words: Wording, enterprise: str) -> list[Fact]:
    names, (_, actions) = names_of(file), split(file)
    found = [
        (words["began"], words.zoned(call.started_at)),
        (words["enterprise"], enterprise),
        (words["line"], call.line),
        (words["wait"], words.span(wait_s) if (wait_s := _wait_s(call)) is not None else ""),
        (words["talk"], words.span(call.talk_s) if call.talk_s is not None else ""),
        (words["rung"], words.parties(call.rung, names)),
        (words["transfers"], words.parties(call.talkers, names, joint=" → ") if len(call.talkers) > 1 else ""),
        (words["hung_up"], _who_hung_up(file, call, names, words)),
        (words["first_message"], words.span(delay) if (delay := first_message_s(call, actions)) is not None else ""),
    ]
    return [Fact(label, value) for label, value in found if value]


def counts_of(file: CallFile) -> dict[str, int]:
    """How many records of each sort. ``repeated`` were posted again: recognised and not stored, or too late for that."""
    events, actions = split(file)
    stored_again = len(events) - len({(event.kind, event.raw) for event in events})
    done = Counter(action.op for action in actions if action.executed)
    return {
        "events": len(events),
        "repeated": stored_again + sum(file.repeats.values()),
        "send": done[Op.SEND],
        "edit": done[Op.EDIT],
        "delete": done[Op.DELETE],
        "skip": sum(action.op is Op.SKIP for action in actions),
        "fail": sum(is_failure(action) for action in actions),
    }


def is_failure(action: Action) -> bool:
    return action.op is not Op.SKIP and not action.executed


def first_message_s(call: Call, actions: Sequence[Action]) -> float | None:
    """From the first event to the moment when some chat showed something."""
    shown = [action for action in actions if action.op is Op.SEND and action.executed]
    return (shown[0].at - call.started_at).total_seconds() + shown[0].took_s if shown else None


def _wait_s(call: Call) -> float | None:
    return (call.answered_at - call.started_at).total_seconds() if call.answered_at else call.wait_s


def _who_hung_up(file: CallFile, call: Call, names: dict[str, str], words: Wording) -> str:
    """Whose channel left the last bridge first; told by nothing else, and not told when both left in one instant."""
    moves = [move for move in file.facts.moves if move.bridge_id]
    if not call.ended or not moves:
        return ""
    last = moves[-1].bridge_id
    left = [move for move in moves if move.bridge_id == last and move.left]
    if len({move.unique_id for move in left}) < 2:
        return ""
    return whose(file, call, left[0].unique_id, names, words)


def whose(file: CallFile, call: Call, unique_id: str, names: dict[str, str], words: Wording) -> str:
    """The party behind a channel, as a reader would call it."""
    device = device_of(file, unique_id)
    if unique_id == call.unique_id and call.direction is Direction.INCOMING:
        return words["client"]
    if device and device in {*call.rung, *call.talkers, call.caller}:
        return words.party(device, names)
    if unique_id == call.unique_id and call.caller:
        return words.party(call.caller, names)
    leg = file.facts.legs.get(unique_id)
    if device and device == call.line and leg is not None and call.direction is Direction.OUTGOING:
        return words["client"]
    return words.party(device, names) if device else unique_id or words["host"]


def device_of(file: CallFile, unique_id: str) -> str:
    """``SIP/150-0000002b`` → ``150``; ``""`` while the channel's name is not told."""
    leg = file.facts.legs.get(unique_id)
    name = leg.channel.partition("/")[2] if leg else ""
    if leg and leg.channel.startswith("Local/"):
        return name.partition("@")[0]
    return name.rpartition("-")[0] or name


# What is missing


def gaps_of(file: CallFile, call: Call, words: Wording) -> list[str]:
    """What should be there and is not, each in a sentence."""
    facts, found = file.facts, []
    (events, _), names = split(file), names_of(file)
    outside = call.direction is not Direction.INTERNAL
    if outside and call.talkers and not facts.dials:
        found.append(words["gap_bridge_without_dial"])
    if outside and facts.hangups and not (facts.dials or facts.starts or facts.moves):
        found.append(words["gap_hangup_without_dial"])
    if call.direction is Direction.INCOMING and facts.dials and not facts.starts:
        found.append(words["gap_dial_without_start"])
    if call.closed:
        found.append(words["gap_no_hangup"])
    found += _gaps_of_bridges(file, call, words, names)
    late_s = late_by_s(call)
    if late_s is not None:
        found.append(words.say("gap_late", time=words.span(late_s)))
    for event in events:
        if event.id in file.failed:
            found.append(words.say("gap_failed", kind=event.kind, error=file.failed[event.id]))
    return list(dict.fromkeys([*found, *_gaps_of_chats(file, call, words)]))  # a bridge entered and left time and again


def _gaps_of_bridges(file: CallFile, call: Call, words: Wording, names: dict[str, str]) -> list[str]:
    found = []
    inside: dict[str, set[str]] = {}
    entered: set[tuple[str, str]] = set()
    open_now: set[tuple[str, str]] = set()
    for move in file.facts.moves:
        if not move.bridge_id:
            continue
        place = (move.bridge_id, move.unique_id)
        if not move.left:
            inside.setdefault(move.bridge_id, set()).add(move.unique_id)
            entered.add(place)
            open_now.add(place)
        elif place not in entered:
            entered.add(place)
            inside.setdefault(move.bridge_id, set()).add(move.unique_id)
            who = whose(file, call, move.unique_id, names, words)
            found.append(words.say("gap_left_without_entry", who=who))
        else:
            open_now.discard(place)
    for bridge, channels in inside.items():
        if len(channels) == 1 and call.ended:
            found.append(words.say("gap_lonely_bridge", bridge=short(bridge)))
    if call.ended and any(move.left for move in file.facts.moves):
        hung_up = {hangup.unique_id for hangup in file.facts.hangups}
        for channel in sorted({channel for _, channel in open_now} - hung_up):
            found.append(words.say("gap_never_left", who=whose(file, call, channel, names, words)))
    return found


def _gaps_of_chats(file: CallFile, call: Call, words: Wording) -> list[str]:
    found = []
    for card in file.cards:
        if not call.ended or card.due_at is not None:
            continue
        last = card.shown[-1] if card.shown else None
        if last is None:
            found.append(words.say("gap_unsent", chat=card.chat_id))
        elif last.stage is not Stage.HANGUP:
            found.append(words.say("gap_not_final", chat=card.chat_id, stage=words[f"stage_{last.stage}"]))
    return found


def late_by_s(call: Call) -> float | None:
    """How long after the end that the host wrote its hangup came, where that is long."""
    return call.late_s if call.late_s > LATE_S else None


def badges_of(file: CallFile, call: Call, words: Wording, gaps: Sequence[str]) -> list[Badge]:
    _, actions = split(file)
    lost = {words["gap_bridge_without_dial"], words["gap_hangup_without_dial"], words["gap_dial_without_start"]}
    told = {
        "live": not call.ended,
        "ghost": call.closed,
        "late": late_by_s(call) is not None,
        "partial": bool(lost & set(gaps)) or bool(file.failed),
        "recording": bool(call.recording or call.recording_link),
        "unsent": call.ended and bool(file.cards) and not any(card.shown for card in file.cards),
        "failed": any(is_failure(action) for action in actions),
    }
    link = call.recording_link if call.recording_link.startswith(("http://", "https://")) else ""
    urls = {"recording": link}
    return [Badge(kind, words[f"badge_{kind}"], urls.get(kind, "")) for kind, is_so in told.items() if is_so]


def short(bridge: str) -> str:
    return bridge[:8]
