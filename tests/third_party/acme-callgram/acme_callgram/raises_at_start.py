"""Raises in ``startup``: it must be taken out, so that its other hook is never asked."""

from __future__ import annotations

from callgram import Message, hookimpl


@hookimpl
async def startup() -> None:
    raise OSError("acme cannot reach its server")


@hookimpl
async def render_message() -> Message:
    return Message("of a plugin that never started")
