"""Tracer: a readable file of everything that came in and everything that was done about it, one line each.

Reads the trace as a sink does, at least once and in commit order; writes below ``directory``. Refuses nothing: a record
that cannot be written raises, and is asked for again until it can. Events that nobody posted (timers) are left out.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from callgram import Action, ConfigError, Context, Event, Kind, hookimpl
from callgram_tracer.files import DayFiles, TraceWriteError
from callgram_tracer.lines import Line, LineError, action_line, event_line, parse_line

__all__ = ["Line", "LineError", "Settings", "TraceWriteError", "Tracer", "parse_line"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``zone`` is an IANA name, ``""`` the enterprise's own. ``text_limit`` counts code points of a message's text.

    An enterprise can have its own ``text_limit`` and ``zone``; the others are the process's.
    """

    directory: str = "call_tracer"
    retention_days: Positive = 14
    text_limit: Annotated[int, msgspec.Meta(ge=0)] = 300
    max_open_files: Positive = 128
    zone: str = ""

    def __post_init__(self) -> None:
        if self.zone:
            try:
                ZoneInfo(self.zone)
            except (ValueError, OSError, KeyError):
                raise ValueError(f"zone is {self.zone!r}; use an IANA name such as Europe/Minsk") from None


class Tracer:
    """The plugin. Its file I/O blocks the event loop on purpose: an append to the page cache takes microseconds, a
    thread hop takes longer, and without a queue there is nothing that an acknowledged line could be lost from."""

    Settings = Settings

    def __init__(self) -> None:
        self._files = _files(Settings())

    @hookimpl
    async def startup(self, ctx: Context) -> None:
        settings: Settings = ctx.settings
        _check_writable(Path(settings.directory))
        self._files = _files(settings)
        self._files.sweep(_local(ctx, ctx.now).date())

    @hookimpl
    async def shutdown(self, ctx: Context) -> None:
        self._files.close()

    @hookimpl
    async def on_event(self, ctx: Context, event: Event) -> None:
        if event.kind is Kind.TIMER:
            return
        at = _local(ctx, event.received_at)
        self._append(ctx, event.enterprise, event_line(event, at), at)

    @hookimpl
    async def on_telegram_action(self, ctx: Context, action: Action) -> None:
        at = _local(ctx, action.at)
        self._append(ctx, action.enterprise, action_line(action, at, text_limit=ctx.settings.text_limit), at)

    def _append(self, ctx: Context, enterprise: str, line: str, at: datetime) -> None:
        self._files.append(enterprise, line.encode(), at=at, today=_local(ctx, ctx.now).date())


def _files(settings: Settings) -> DayFiles:
    return DayFiles(
        Path(settings.directory), max_open=settings.max_open_files, retention_days=settings.retention_days
    )


def _local(ctx: Context, at: datetime) -> datetime:
    return at.astimezone(ZoneInfo(ctx.settings.zone or ctx.locale.zone))


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        reason = "" if os.access(directory, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError(f"tracer: settings.directory {str(directory)!r}: {reason}; name one that can be written")
