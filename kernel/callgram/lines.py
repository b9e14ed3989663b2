"""Lines that messages of several stages share, in one voice: the client, who rings, when it began. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from callgram.calls.story import Call
from callgram.context import Locale
from callgram.text import catalogue, clock, phone

MANY = 4  # more extensions than this fold into an expandable quote, so that the chat stays readable


def client(call: Call, locale: Locale) -> str:
    """``💰+375 (29) 625-40-70``, or that the number is hidden."""
    return f"💰{phone(call.client)}" if call.client else f"💰{catalogue('callgram', locale.language)['hidden']}"


def party(number: str) -> str:
    """``☎️151``; a mobile that stands in for an extension is shown as a number. ``☎️`` alone when nobody is known."""
    return f"☎️{phone(number)}"


def parties(numbers: Iterable[str]) -> str:
    """One ``☎️`` line each; more than four in an expandable quote."""
    lines = [party(number) for number in numbers]
    text = "\n".join(lines)
    return f"<blockquote expandable>{text}</blockquote>" if len(lines) > MANY else text


def transfer(call: Call, locale: Locale) -> str:
    """``(перевод: 151 → 152)``, or nothing while one party has talked."""
    if len(call.talkers) < 2:
        return ""
    return catalogue("callgram", locale.language)["transfer"].format(who=" → ".join(map(phone, call.talkers)))


def began(call: Call, locale: Locale) -> str:
    """``⏰14.09.2025 12:05:23`` in the enterprise's zone."""
    return f"⏰{clock(begin_of(call, locale), locale.tz)}"


def begin_of(call: Call, locale: Locale) -> datetime:
    """When the call began: the first arrival, or the host's word where the hangup is all that came and the word is sane."""
    if call.ended_at == call.started_at and call.host_start:
        try:
            told = datetime.fromisoformat(call.host_start).replace(tzinfo=locale.tz)
        except ValueError:
            return call.started_at
        if timedelta() <= call.started_at - told < timedelta(hours=24):
            return told
    return call.started_at
