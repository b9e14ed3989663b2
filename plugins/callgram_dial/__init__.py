"""Dial: phones are ringing. Plans the ringing stage of outside calls and draws its message."""

from __future__ import annotations

from callgram import Call, Context, Direction, Event, Message, Plan, Stage, catalogue, hookimpl, html_lines, lines


@hookimpl
async def plan_message(ctx: Context, call: Call, event: Event) -> Plan | None:
    if call.ended or not call.dialled or call.direction is Direction.INTERNAL:
        return None
    return Plan(stage=Stage.DIAL, replaces=frozenset({Stage.START}))


@hookimpl(trylast=True)
async def render_message(ctx: Context, call: Call, stage: Stage) -> Message | None:
    if stage is not Stage.DIAL or call.direction is Direction.INTERNAL:
        return None
    words = catalogue(__name__, ctx.locale.language)
    client = lines.client(call, ctx.locale)
    if call.direction is Direction.OUTGOING:
        return html_lines(words["outgoing"], f"{lines.party(call.caller, call.names)} ➡️ {client}")
    ringing = lines.parties(call.ringing, call.names)
    return html_lines(words["incoming"], client, ringing, lines.history(call, ctx.locale))
