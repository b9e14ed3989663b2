"""The Telegram side of the kernel, and the only place that knows aiogram and the HTTP client.

Importing this package is cheap; aiogram, which takes seconds to import, comes in with ``open_session``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callgram.telegram.limits import Limits, LimitSettings
from callgram.telegram.outcome import Kind, Outcome, Reason
from callgram.telegram.settings import SessionSettings

if TYPE_CHECKING:
    from callgram.telegram.session import TelegramSession

__all__ = ["Kind", "LimitSettings", "Limits", "Outcome", "Reason", "SessionSettings", "open_session"]


def open_session(settings: SessionSettings | None = None) -> TelegramSession:
    """The one session that all bots share; close it with ``await session.close()``. Raises ConfigError."""
    from callgram.telegram.session import TelegramSession

    return TelegramSession(settings or SessionSettings())
