"""Telephone numbers: one canonical form to compare, one readable form to show, and what kind of number a text is.

Pure. Canonical is E.164 digits without ``+`` where `phonenumbers` can tell, else the digits as they came; a hidden number
is ``""``. The length rules of old systems (7 digits = trunk) are not used: ``103`` may be a city number (docs/events.md).
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

SCHEME = re.compile(r"(?:sips?|tel):", re.IGNORECASE | re.ASCII)
HIDDEN = frozenset({"", "anonymous", "restricted", "unavailable", "private", "withheld", "unknown", "<unknown>", "s"})


class Rewrite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trunk's numbers become international ones: of a number whose digits fit ``match`` (a regular expression for
    the whole), the ``last`` digits behind ``prefix``. ``{match = '\\d{9}', prefix = "375", last = 9}``."""

    match: str
    prefix: str
    last: int

    def apply(self, digits: str) -> str:
        """The new number, ``""`` where the rule does not fit."""
        fits = len(digits) >= self.last > 0 and _pattern(self.match).fullmatch(digits)
        return f"{self.prefix}{digits[-self.last :]}" if fits else ""


class NumberPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an enterprise numbers things. ``extension`` is a regular expression for the whole of an inside number;
    ``region`` is the ISO 3166 country whose rules read a number without ``+`` (phonenumbers). ``rewrite`` is tried before,
    the first rule that fits counts. ``zone`` is the IANA zone of the hosts' clocks."""

    extension: str = r"\d{3,4}"
    region: str = "BY"
    rewrite: tuple[Rewrite, ...] = ()
    zone: str = "Europe/Minsk"

    def is_extension(self, number: str) -> bool:
        return _fits(self.extension, number)

    def canonical(self, number: str) -> str:
        return canonical(number, self.region, self.rewrite) if self.rewrite else canonical(number, self.region)


@lru_cache(256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


@lru_cache(65_536)
def _fits(pattern: str, number: str) -> bool:
    return _pattern(pattern).fullmatch(number) is not None


@lru_cache(65_536)
def bare(number: str) -> str:
    """A number without the dialplan context that hosts leave on it: ``375290000777@outbound`` → ``375290000777``."""
    return number.split("@", 1)[0].strip()


@lru_cache(65_536)
def is_hidden(number: str) -> bool:
    return bare(number).lower() in HIDDEN


@lru_cache(65_536)
def canonical(number: str, region: str, rewrite: tuple[Rewrite, ...] = ()) -> str:
    """``+375 (29) 625-40-70``, ``375296254070`` and, in BY, ``80296254070`` are one client: ``375296254070``."""
    text = bare(number)
    if is_hidden(text):
        return ""
    text = SCHEME.sub("", text, count=1)
    if any(char.isalpha() for char in text):
        return text  # a name of SIP, or something hostile: no digits of it are a number
    digits = re.sub(r"\D", "", text)
    digits = next((new for rule in rewrite if (new := rule.apply(digits))), digits)
    parsed = _parse(text, digits, region)
    return parsed or digits or text


def _parse(text: str, digits: str, region: str) -> str | None:
    import phonenumbers  # 40 ms and 6 MB: not for `callgram --help`

    if len(digits) < 7:
        return None  # short numbers (103, extensions) mean what they say
    ways = ((f"+{digits}", None), (digits, region))  # without + the region's own numbers come first: 298212345 in BY
    for candidate, where in ways if text.startswith("+") else reversed(ways):
        try:
            parsed = phonenumbers.parse(candidate, where)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)[1:]
    return None


@lru_cache(65_536)
def readable(number: str) -> str:
    """A canonical number for people: ``375296254070`` → ``+375 (29) 625-40-70``; what is no valid number stays as it is."""
    import phonenumbers

    if len(number) < 7 or not number.isdigit():
        return number
    try:
        parsed = phonenumbers.parse(f"+{number}")
    except phonenumbers.NumberParseException:
        return number
    if not phonenumbers.is_possible_number(parsed):
        return number
    text = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    if re.sub(r"\D", "", text) != number:
        return number  # a zero that the formatting takes for a trunk prefix
    return re.sub(r"^(\+\d+) (\d+)[ -]", r"\1 (\2) ", text)
