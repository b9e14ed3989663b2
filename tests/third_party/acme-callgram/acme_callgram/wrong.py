"""What a plugin may not be, one of each: ``sync``, ``wrapper``, ``tryfirst``, ``default``, ``argument``, ``hook``."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from callgram import Call, Message, hookimpl


class sync:
    @hookimpl
    def render_message(self, call: Call) -> Message | None:
        return Message("answered without await")


class wrapper:
    @hookimpl(wrapper=True)
    def render_message(self, call: Call) -> Generator[None, Any, Any]:
        return (yield)


class tryfirst:
    @hookimpl(tryfirst=True)
    async def render_message(self, call: Call) -> Message | None:
        return Message("jumped the queue")


class default:
    @hookimpl
    async def render_message(self, call: Call, stage: str = "hangup") -> Message | None:
        return Message(stage)


class argument:
    @hookimpl
    async def render_message(self, call: Call, weather: str) -> Message | None:
        return Message(weather)


class hook:
    @hookimpl
    async def render_mesage(self, call: Call) -> Message | None:
        return Message("nobody asks for this")
