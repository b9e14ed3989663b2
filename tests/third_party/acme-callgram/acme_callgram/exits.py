"""Ends the process, or tries to, from its hooks: at once and after having waited."""

from __future__ import annotations

import asyncio
import sys

from callgram import hookimpl


@hookimpl
async def plan_message() -> None:
    sys.exit("acme has seen enough of plan_message")


@hookimpl
async def render_message() -> None:
    await asyncio.sleep(0)
    sys.exit("acme has seen enough of render_message")


@hookimpl
async def on_event() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


@hookimpl
async def on_telegram_action() -> None:
    sys.exit(3)
