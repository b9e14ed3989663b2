"""Works: a final message of its own. Needs no settings to come before the shipped one."""

from __future__ import annotations

import msgspec

from callgram import Call, Context, Message, Stage, escape, hookimpl, html_lines

CALLGRAM_API = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``head``: the first line; ``width``: how much of the client's number is shown."""

    head: str = "ACME"
    width: int = 20


@hookimpl
async def render_message(ctx: Context, call: Call, stage: Stage) -> Message | None:
    if stage is not Stage.HANGUP:
        return None
    return html_lines(
        f"{escape(ctx.settings.head)}: {call.direction} {call.result}", escape(call.client)[: ctx.settings.width]
    )
