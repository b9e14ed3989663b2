"""Lines that messages of several stages share, in one voice: the client, who rings, when it began. Pure.

Where a plugin found a name it stands with the number: people know each other by names, and call by numbers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

from callgram.calls.story import Call, Cause, Direction
from callgram.context import Locale
from callgram.text import catalogue, clock, escape, one_line, phone

MANY = 4  # more extensions than this fold into an expandable quote, so that the chat stays readable
MOST = 20  # and of more than these only the first are named, for a message holds 4096 signs
LINK = re.compile(r"https?://[!-~]{1,1000}")  # printable ASCII, as a URL is
NOBODY: Mapping[str, str] = {}


def client(call: Call, locale: Locale) -> str:
    """``💰+375 (29) 625-40-70``, ``💰Иванов Иван +375 (29) 625-40-70``, or that the number is hidden."""
    if not call.client:
        return f"💰{_words(locale)['hidden']}"
    name = name_of(call.client, call.names)
    return f"💰{name} {phone(call.client)}" if name else f"💰{phone(call.client)}"


def party(number: str, names: Mapping[str, str] = NOBODY) -> str:
    """``☎️151`` or ``☎️Иванов Иван (151)``; a mobile that stands in for an extension is shown as a number. ``☎️`` alone
    when nobody is known."""
    name = name_of(number, names)
    return f"☎️{name} ({phone(number)})" if name else f"☎️{phone(number)}"


def parties(numbers: Iterable[str], names: Mapping[str, str] = NOBODY) -> str:
    """One ``☎️`` line each; more than four in an expandable quote, of more than twenty how many more they are."""
    known = tuple(numbers)
    lines = [party(number, names) for number in known[:MOST]]
    if len(known) > MOST:
        lines.append(f"… +{len(known) - MOST}")
    text = "\n".join(lines)
    return f"<blockquote expandable>{text}</blockquote>" if len(lines) > MANY else text


def name_of(number: str, names: Mapping[str, str]) -> str:
    """The name of a number, escaped and in one line; ``""`` where nobody knows it."""
    return escape(one_line(names.get(number, "")))


def line(call: Call) -> str:
    """``📡0001363``, or ``📡Офис (0001363)``."""
    name = name_of(call.line, call.names)
    number = escape(one_line(call.line))
    return f"📡{name} ({number})" if name else f"📡{number}" if number else ""


def transfer(call: Call, locale: Locale) -> str:
    """``(перевод: 151 → 152)``, or nothing while one party has talked."""
    if len(call.talkers) < 2:
        return ""
    return _words(locale)["transfer"].format(who=" → ".join(map(phone, call.talkers)))


def since(call: Call, locale: Locale) -> str:
    """``⏱с 12:05:31``: since when the one who talks now does. A moment and no duration, so that it stays true."""
    if call.talking_since is None:
        return ""
    return _words(locale)["since"].format(time=clock(call.talking_since, locale.tz).partition(" ")[2])


def began(call: Call, locale: Locale) -> str:
    """``⏰14.09.2025 12:05:23`` in the enterprise's zone; with a ``🔄`` where the end was delivered late."""
    late = " 🔄" if call.late_s > locale.late_after_s else ""
    return f"⏰{clock(call.began_at, locale.tz)}{late}"


def cause(call: Call, locale: Locale) -> str:
    """``📵Занято``: why nobody answered, where the host tells it. Who gave up is the client, or one of ours."""
    if call.cause is None:
        return ""
    ours = call.cause is Cause.CANCELLED and call.direction is not Direction.INCOMING
    return f"📵{_words(locale)['cause_withdrawn' if ours else f'cause_{call.cause}']}"


def closed(call: Call, locale: Locale) -> str:
    """That no end was received: our own clock ended the call."""
    return _words(locale)["closed"] if call.closed else ""


def history(call: Call, locale: Locale) -> str:
    """``🗂Звонил: 3 раза, последний 13.09.2025 11:02:10 ✅``: how often this client called before."""
    told, words = call.history, _words(locale)
    if told is None or told.n_calls < 1:
        return ""
    mark = "✅" if told.last_answered else "❌"
    return words[f"history_{_plural(told.n_calls)}"].format(
        n=told.n_calls, last=f"{clock(told.last_at, locale.tz)} {mark}"
    )


def recording(call: Call, locale: Locale) -> str:
    """``🔉Запись``, a link."""
    if not LINK.fullmatch(call.recording_link):
        return ""
    return f'🔉<a href="{html.escape(call.recording_link)}">{_words(locale)["recording"]}</a>'


def _plural(number: int) -> str:
    """Which of the three Russian forms a number takes; English has two of them alike."""
    if number % 10 == 1 and number % 100 != 11:
        return "one"
    return "few" if number % 10 in {2, 3, 4} and number % 100 not in {12, 13, 14} else "many"


def _words(locale: Locale) -> Mapping[str, str]:
    return catalogue("callgram", locale.language)
