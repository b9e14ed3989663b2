"""Its ``Settings`` are no msgspec struct."""

from __future__ import annotations

from callgram import Message, hookimpl


class Settings:
    head = "ACME"


@hookimpl
async def render_message() -> Message | None:
    return None
