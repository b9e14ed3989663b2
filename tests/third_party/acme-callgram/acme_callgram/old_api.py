"""Written for a plugin API that is gone."""

from __future__ import annotations

from callgram import Message, hookimpl

CALLGRAM_API = 0


@hookimpl
async def render_message() -> Message:
    return Message("of a plugin for another API")
