"""Internal: one extension calls another. Plans every stage of inside calls and draws their messages.

Without this plugin inside calls are not shown at all. They have no start, and old hosts send no dial for them.
"""

from __future__ import annotations

from callgram import (
    Call,
    Context,
    Direction,
    Event,
    Message,
    Plan,
    Stage,
    catalogue,
    duration,
    hookimpl,
    html_lines,
    lines,
)


@hookimpl
async def plan_message(ctx: Context, call: Call, event: Event) -> Plan | None:
    if call.direction is not Direction.INTERNAL:
        return None
    if call.ended:
        return Plan(stage=Stage.HANGUP, replaces=frozenset({Stage.DIAL, Stage.BRIDGE}))
    if call.talkers:
        return Plan(stage=Stage.BRIDGE, replaces=frozenset({Stage.DIAL}))
    return Plan(stage=Stage.DIAL) if call.dialled else None


@hookimpl(trylast=True)
async def render_message(ctx: Context, call: Call, stage: Stage) -> Message | None:
    if call.direction is not Direction.INTERNAL:
        return None
    words = catalogue(__name__, ctx.locale.language)
    if stage is Stage.HANGUP:
        lasted = words["talk"].format(time=duration(call.talk_s)) if call.talk_s is not None else ""
        if call.wait_s and call.wait_s >= 0.5:
            lasted = words["rang"].format(time=duration(call.wait_s))
        unknown = call.closed and not call.answered
        return html_lines(
            words["unknown" if unknown else str(call.result)],
            pair(call, "➡️"),
            lines.cause(call, ctx.locale),
            lines.began(call, ctx.locale),
            lasted,
            lines.recording(call, ctx.locale),
            lines.closed(call, ctx.locale),
        )
    if stage is Stage.BRIDGE:
        return html_lines(pair(call, "📞➡️"), lines.since(call, ctx.locale))
    return html_lines(words["dial"], pair(call, "➡️"))


def pair(call: Call, arrow: str) -> str:
    """``☎️150 ➡️ ☎️151``; the caller alone when nobody told whom he called."""
    called = call.talkers[-1:] or call.ringing[:1]
    caller = lines.party(call.caller, call.names)
    return f"{caller} {arrow} {lines.party(called[0], call.names)}" if called else caller
