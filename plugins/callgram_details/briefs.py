"""Briefs: a call as one line of a list, of the calls list, its CSV and the last calls of a client. Pure."""

from __future__ import annotations

import msgspec

from callgram import Call, Listed, NumberPlan, tell
from callgram_details.story import names_of, result_words
from callgram_details.timeline import direction_sign
from callgram_details.wording import Wording


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """A call as one line of a list."""

    call: Call
    sign: str
    day: str
    result: str
    client: str
    line: str
    who: str
    enterprise: str
    n_chats: int
    n_shown: int


def brief_of(one: Listed, words: Wording, plan: NumberPlan) -> Brief:
    call = tell(one.facts, plan)
    names = names_of(one)
    return Brief(
        call=call,
        sign=direction_sign(call),
        day=words.day(call.started_at),
        result=result_words(call, names, words),
        client=words.party(call.client, names) if call.client else words["hidden"] if call.direction != "internal" else "",
        line=call.line,
        who=words.parties(dict.fromkeys((call.caller, *(call.talkers or call.rung))), names).lstrip(", "),
        enterprise=call.enterprise,
        n_chats=one.n_chats,
        n_shown=one.n_shown,
    )
