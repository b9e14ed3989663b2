"""Simulator: a Bot API server on its own port, with a truth log and its chats in the browser. Useful to any bot author.

As a plugin it brings the command ``callgram simulator``. The server is imported when the command runs.
"""

from __future__ import annotations

from typing import Any

from callgram import Context, hookimpl


@hookimpl
async def cli_commands(ctx: Context) -> list[Any] | None:
    from callgram_simulator.command import simulator

    return [simulator]
