"""What must not be on a page: secrets of the enterprise, and for some readers the numbers of clients. Pure.

Applied to the finished page, so that nothing that was added to it later can slip past.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from callgram import Enterprise

SECRET_KEYS = frozenset({"token", "secret", "password", "authorization", "apikey", "api_key"})
STARS = "***"
_ID = re.compile("unique|linkedid", re.IGNORECASE)
_NUMBER = re.compile(r"\+?\d[\d ()\-]{7,}\d")
_LOGIN = re.compile(r"(https?://)[^\s/?#@\"'<>&]+@")  # of an address
_SHORT = 6  # a shorter secret is no secret, and would blot out half of the page


def masked_body(raw: bytes) -> tuple[Any, str]:
    """``(the body with secrets starred, "")``, or ``(None, its text)`` where it is no JSON object."""
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict):
        return _starred_values(told), ""
    return None, raw.decode("utf-8", "replace")


def _starred_values(told: Any) -> Any:
    if isinstance(told, dict):
        return {
            key: STARS if str(key).lower() in SECRET_KEYS else _starred_values(value) for key, value in told.items()
        }
    return [_starred_values(value) for value in told] if isinstance(told, list) else told


def masked_raw(raw: bytes) -> bytes:
    """``raw`` for a line of a trace file, which stars its Token itself: byte for byte, unless there is another secret in it."""
    told, _ = masked_body(raw)
    if told is None or told == json.loads(raw) | ({"Token": STARS} if "Token" in told else {}):
        return raw
    return json.dumps(told).encode()


def pretty(raw: bytes) -> str:
    """A request body for people: one field a line, secrets starred, what cannot be shown written as JSON writes it."""
    told, text = masked_body(raw)
    if told is None:
        return text
    return json.dumps(told, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace").decode()


def without_secrets(text: str, enterprise: Enterprise | None) -> str:
    """``text`` without the enterprise's Token and its bot's token, wherever they come from, and the passwords of addresses."""
    text = _LOGIN.sub(rf"\1{STARS}@", text)
    if enterprise is None:
        return text
    for secret in (enterprise.bot_token.reveal(), enterprise.token.reveal()):
        if len(secret) >= _SHORT:
            text = text.replace(secret, STARS)
    return text


class NumberMask:
    """Stars the middle of outside numbers, however they are written: ``+375 (29) 625-40-70`` → ``+375 (29) •••-••-70``."""

    def __init__(self, numbers: Iterable[str]) -> None:
        tails = {digits[-7:] for number in numbers if len(digits := re.sub(r"\D", "", number)) >= 7}
        joint = r"[\s()\-\u00a0\u2011]*"
        self._pattern = (
            re.compile("|".join(joint.join(map(re.escape, tail)) for tail in sorted(tails))) if tails else None
        )

    def __call__(self, text: str) -> str:
        return self._pattern.sub(_starred, text) if self._pattern else text


def _starred(match: re.Match[str]) -> str:
    text = match.group()
    return re.sub(r"\d", "•", text[:-2]) + text[-2:]


def numbers_in(raw: bytes) -> Iterable[str]:
    """Everything in a body that looks like an outside number; ids of channels and bridges look so, too, and are none."""
    told, text = masked_body(raw)
    values = [text] if told is None else [str(value) for key, value in told.items() if not _ID.search(key)]
    return (number for value in values for number in _NUMBER.findall(value))
