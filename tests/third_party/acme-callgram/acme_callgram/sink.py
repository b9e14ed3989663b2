"""Works: keeps what it is told, in a list and, where ``path`` is set, in a file of one line each."""

from __future__ import annotations

from pathlib import Path

import msgspec

from callgram import Action, Context, Event, hookimpl


class Sink:
    class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """``path``: the file to append to; none where it is empty."""

        path: str = ""

    def __init__(self) -> None:
        self.told: list[str] = []

    @hookimpl
    async def on_event(self, ctx: Context, event: Event) -> None:
        self._keep(ctx, f"event {event.enterprise} {event.kind} {event.unique_id}")

    @hookimpl
    async def on_telegram_action(self, ctx: Context, action: Action) -> None:
        self._keep(ctx, f"action {action.enterprise} {action.op} {action.stage} {action.outcome} {action.chat_id}")

    def _keep(self, ctx: Context, line: str) -> None:
        self.told.append(line)
        if ctx.settings.path:
            with Path(ctx.settings.path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
