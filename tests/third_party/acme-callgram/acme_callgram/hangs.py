"""Waits for ever, in the hooks that messages and traces depend on."""

from __future__ import annotations

import asyncio

from callgram import hookimpl


@hookimpl
async def plan_message() -> None:
    await asyncio.Event().wait()


@hookimpl
async def render_message() -> None:
    await asyncio.Event().wait()


@hookimpl
async def on_event() -> None:
    await asyncio.Event().wait()
