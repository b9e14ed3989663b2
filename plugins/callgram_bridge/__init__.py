"""Bridge: somebody talks with the client. Plans the talking stage of outside calls and draws its message."""

from __future__ import annotations

from callgram import Call, Context, Direction, Event, Message, Plan, Stage, hookimpl, html_lines, lines


@hookimpl
async def plan_message(ctx: Context, call: Call, event: Event) -> Plan | None:
    if call.ended or not call.talkers or call.direction is Direction.INTERNAL:
        return None
    return Plan(stage=Stage.BRIDGE, replaces=frozenset({Stage.START, Stage.DIAL}))


@hookimpl(trylast=True)
async def render_message(ctx: Context, call: Call, stage: Stage) -> Message | None:
    if stage is not Stage.BRIDGE or call.direction is Direction.INTERNAL:
        return None
    arrow = "📞➡️" if call.direction is Direction.OUTGOING else "📞⬅️"
    talk = f"{lines.party(call.talkers[-1], call.names)} {arrow} {lines.client(call, ctx.locale)}"
    return html_lines(talk, lines.transfer(call, ctx.locale), lines.since(call, ctx.locale))
