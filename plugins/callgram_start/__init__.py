"""Start: a client calls in and nothing rings yet. Plans the first stage of an incoming call and draws its message.

Held for ``hold_s``, so that a dial right behind it makes the message unnecessary.
"""

from __future__ import annotations

import msgspec

from callgram import Call, Context, Direction, Event, Message, Plan, Stage, catalogue, hookimpl, html_lines, lines


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``hold_s``: seconds that the message waits for a dial to replace it; 0 sends at once."""

    hold_s: float = 1.0


@hookimpl
async def plan_message(ctx: Context, call: Call, event: Event) -> Plan | None:
    if call.ended or not call.greeted or call.direction is not Direction.INCOMING:
        return None
    return Plan(stage=Stage.START, hold_s=ctx.settings.hold_s)


@hookimpl(trylast=True)
async def render_message(ctx: Context, call: Call, stage: Stage) -> Message | None:
    if stage is not Stage.START:
        return None
    words = catalogue(__name__, ctx.locale.language)
    return html_lines(words["incoming"], lines.client(call, ctx.locale), lines.history(call, ctx.locale))
