"""The program's log: loguru to stderr, one line each, without bot tokens whatever a library may have put into a text."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from loguru import Record

_TOKEN = re.compile(r"(?<!\d)\d{5,}:[A-Za-z0-9_-]{20,}")  # in a URL "bot" stands right before it
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]+):\S+@")
_SIGNING = re.compile(r"whsec_[A-Za-z0-9+/=_-]+")
FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}"


def scrub(text: str) -> str:
    """``text`` without bot tokens, secrets of signatures and passwords of URLs."""
    return _URL_PASSWORD.sub(r"\1:***@", _SIGNING.sub("***", _TOKEN.sub("***", text)))


def _scrubbed(record: Record) -> None:
    record["message"] = scrub(record["message"])


def set_up(level: str = "INFO", *, who: str = "") -> None:
    """Log to stderr from now on, ``who`` in front of each text. Exceptions are shown without the values of variables: those may
    be secret."""
    logger.remove()
    logger.configure(patcher=_scrubbed)
    logger.add(sys.stderr, level=level, format=FORMAT.replace("{message}", f"{who}{{message}}"), diagnose=False, backtrace=False)
