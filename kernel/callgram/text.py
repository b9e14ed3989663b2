"""Text for people: Telegram HTML, numbers, times, and the catalogues of words. Pure.

Everything that came from outside goes through :func:`escape`. A plugin keeps its words in ``ru.toml`` and ``en.toml`` beside
its module and reads them with :func:`catalogue`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime, tzinfo
from functools import cache
from importlib import resources

import msgspec

from callgram.cards import Message
from callgram.numbers import readable

MAX_TEXT = 4000  # of 4096 after entity parsing (Bot API, sendMessage), with room for what a format adds
MAX_NAME = 120
_CONTROL = re.compile(
    r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ufeff\ud800-\udfff]"
)  # control and direction marks, halves of a character


def escape(text: str) -> str:
    """Outside text, safe in Telegram HTML: markup is shown literally; control and direction marks are dropped."""
    return html.escape(_CONTROL.sub("", unicodedata.normalize("NFC", text)), quote=False)


def visible(text: str) -> str:
    """Outside text without control and direction marks: they change how what stands around it is read."""
    return _CONTROL.sub("", text)


def one_line(text: str, limit: int = MAX_NAME) -> str:
    """Outside text as one short line, not yet escaped: a name may hold newlines and 10 000 characters."""
    flat = " ".join(_CONTROL.sub("", " ".join(text.split())).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def html_lines(*lines: str) -> Message:
    """A message of these lines; empty ones are left out. Too long a text is cut at a line, so no tag stays open."""
    kept: list[str] = []
    room = MAX_TEXT
    for line in lines:
        if not line:
            continue
        room -= len(line) + 1
        if room < 0:
            kept.append("…")
            break
        kept.append(line)
    return Message("\n".join(kept))


def phone(number: str) -> str:
    """A number as people read it, escaped."""
    return escape(readable(one_line(number, 40)))


def clock(at: datetime, zone: tzinfo) -> str:
    """A moment in the enterprise's zone: ``14.09.2025 12:05:23``."""
    return at.astimezone(zone).strftime("%d.%m.%Y %H:%M:%S")


def duration(seconds: float) -> str:
    """``0:31``, ``12:04``, ``1:02:03``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


@cache
def catalogue(package: str, language: str) -> Mapping[str, str]:
    """The words of a plugin in a language: ``{key: text}`` from ``<language>.toml`` in its package."""
    text = resources.files(package).joinpath(f"{language}.toml").read_text("utf-8")
    return msgspec.toml.decode(text, type=dict[str, str])
