"""Hangup: how a call with the outside ended. Plans the last stage and draws the one final message of a call."""

from __future__ import annotations

import msgspec

from callgram import (
    Call,
    Context,
    Direction,
    Event,
    Message,
    Plan,
    Result,
    Stage,
    catalogue,
    duration,
    hookimpl,
    html_lines,
    lines,
    phone,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``show_line``: whether the final message names the line that the call came or went through. ``show_cause``: whether it
    says why nobody answered, and who hung up, where the host tells it."""

    show_line: bool = True
    show_cause: bool = True


@hookimpl
async def plan_message(ctx: Context, call: Call, event: Event) -> Plan | None:
    if not call.ended or call.direction is Direction.INTERNAL:
        return None
    return Plan(stage=Stage.HANGUP, replaces=frozenset({Stage.START, Stage.DIAL, Stage.BRIDGE}))


@hookimpl(trylast=True)
async def render_message(ctx: Context, call: Call, stage: Stage) -> Message | None:
    if stage is not Stage.HANGUP or call.direction is Direction.INTERNAL:
        return None
    words = catalogue(__name__, ctx.locale.language)
    unknown = call.closed and not call.answered
    return html_lines(
        words[f"{call.direction}_{'unknown' if unknown else call.result}"],
        lines.client(call, ctx.locale),
        managers(call),
        lines.transfer(call, ctx.locale),
        lines.cause(call, ctx.locale) if ctx.settings.show_cause else "",
        lines.line(call) if ctx.settings.show_line else "",
        lines.began(call, ctx.locale),
        lasted(call, ctx.locale.language),
        hung_up(call, ctx.locale.language) if ctx.settings.show_cause else "",
        lines.recording(call, ctx.locale),
        lines.history(call, ctx.locale),
        lines.closed(call, ctx.locale),
    )


def managers(call: Call) -> str:
    """Who talked last; of a missed call everybody who was rung; of an outgoing one who dialled."""
    if call.result is Result.ANSWERED and call.talkers:
        return lines.party(call.talkers[-1], call.names)
    if call.direction is Direction.OUTGOING:
        return lines.party(call.caller, call.names) if call.caller else ""
    return lines.parties(call.rung, call.names)


def lasted(call: Call, language: str) -> str:
    """Talk time where bridges told it, ringing time when nobody answered, and which of the two it is."""
    words = catalogue(__name__, language)
    if call.talk_s is not None:
        return words["talk"].format(time=duration(call.talk_s))
    if call.wait_s and call.wait_s >= 0.5:
        return words["rang"].format(time=duration(call.wait_s))
    return ""


def hung_up(call: Call, language: str) -> str:
    """``📴Завершил клиент`` or ``📴Завершил 151``."""
    if call.hung_up is None or not call.talkers:
        return ""
    return catalogue(__name__, language)[f"hung_up_{call.hung_up}"].format(who=phone(call.talkers[-1]))
