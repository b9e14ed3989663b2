"""Wording: times, spans, numbers and the words of a page in one language. Pure; answers plain text, not HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable
from datetime import datetime, tzinfo

from callgram import catalogue, one_line
from callgram import phone as html_phone


class Wording:
    """``language`` is ru or en, ``zone`` the clock of the page."""

    def __init__(self, language: str, zone: tzinfo) -> None:
        self.language, self.zone = language, zone
        self._words = catalogue(__package__ or "callgram_details", language)

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def say(self, key: str, **values: object) -> str:
        """The words under ``key`` with ``values`` in them. Values are never read as a format."""
        return self._words[key].format(**values)

    def span(self, seconds: float) -> str:
        """``8 мс``, ``1,4 с``, ``2 мин 14 с``, ``1 ч 2 мин 3 с``."""
        seconds = max(0.0, seconds)
        if seconds < 0.9995:
            return f"{round(seconds * 1000)} {self['millisecond']}" if seconds else f"0 {self['second']}"
        if seconds < 10:
            text = f"{seconds:.1f}".removesuffix(".0")
            return f"{text.replace('.', ',') if self.language == 'ru' else text} {self['second']}"
        whole = round(seconds)
        hours, rest = divmod(whole, 3600)
        minutes, left = divmod(rest, 60)
        parts = [(hours, "hour"), (minutes, "minute"), (left, "second")]
        return " ".join(f"{value} {self[unit]}" for value, unit in parts if value)

    def day(self, at: datetime) -> str:
        return at.astimezone(self.zone).strftime("%d.%m.%Y %H:%M:%S")

    def moment(self, at: datetime) -> str:
        """``12:05:23.413``, the clock of the rows."""
        return at.astimezone(self.zone).strftime("%H:%M:%S.%f")[:12]

    def zoned(self, at: datetime) -> str:
        """``14.09.2025 12:05:23 +03:00``."""
        offset = at.astimezone(self.zone).strftime("%z")
        return f"{self.day(at)} {offset[:3]}:{offset[3:]}"

    def number(self, number: str) -> str:
        """A number as people read it; a name that a host put there stays text."""
        return html.unescape(html_phone(number))

    def party(self, number: str, names: dict[str, str]) -> str:
        """``151 Иванов`` where a name is known."""
        name = names.get(number, "")
        shown = self.number(number)
        return f"{shown} {one_line(name, 40)}" if name and name not in {number, shown} else shown

    def parties(self, numbers: Iterable[str], names: dict[str, str], *, joint: str = ", ") -> str:
        return joint.join(self.party(number, names) for number in numbers)


def relative(seconds: float) -> str:
    """``+0.413``, ``+2:14.0``: the other clocks of the rows."""
    sign, seconds = ("−" if seconds < 0 else "+"), abs(seconds)
    minutes, rest = divmod(seconds, 60)
    if minutes >= 60:
        return f"{sign}{int(minutes // 60)}:{int(minutes % 60):02}:{rest:04.1f}"
    return f"{sign}{int(minutes)}:{rest:04.1f}" if minutes else f"{sign}{rest:.3f}"
