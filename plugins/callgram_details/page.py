"""The pages, drawn: what the templates get, and what is taken out of what they give."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from callgram import CallFile, Directory, Enterprise, Listed, Locale, tell
from callgram_details.access import Reader
from callgram_details.chats import chats_of
from callgram_details.rows import INLINE, rows_of
from callgram_details.secrets_gone import NumberMask, numbers_in, without_secrets
from callgram_details.story import (
    badges_of,
    counts_of,
    device_of,
    facts_of,
    gaps_of,
    names_of,
    result_words,
    split,
    whose,
)
from callgram_details.timeline import direction_sign, timeline_of
from callgram_details.wording import Wording

ASSETS = {"details.css": "text/css", "details.js": "text/javascript", "icon.svg": "image/svg+xml"}
ROWS = 2_000  # of one page; a longer call goes on on the next


@cache
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("callgram_details", "view"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals["asset"] = asset_url
    return environment


@cache
def asset(name: str) -> bytes | None:
    """The text of a file that pages refer to; ``None``: no such file."""
    if name not in ASSETS:
        return None
    return resources.files("callgram_details").joinpath("view", name).read_bytes()


@cache
def asset_url(name: str) -> str:
    """With a digest, so that a browser may keep it for ever."""
    return f"/details/assets/{name}?v={hashlib.sha256(asset(name) or b'').hexdigest()[:12]}"


def call_url(unique_id: str, query: Iterable[tuple[str, str]] = (), under: str = "/call/details/") -> str:
    told = urlencode([(key, value) for key, value in query if value])
    return f"{under}{quote(unique_id, safe='', errors='replace')}{'?' if told else ''}{told}"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a page is for, and how: ``query`` are the parameters that its own links keep (``s``, ``e``, ``lang``)."""

    reader: Reader
    words: Wording
    locale: Locale
    directory: Directory
    query: tuple[tuple[str, str], ...]


def call_page(view: View, file: CallFile, unique_id: str, others: Sequence[Listed], *, page: int, lives: bool) -> str:
    words, reader = view.words, view.reader
    call = tell(file.facts, view.locale.plan)
    enterprise = view.directory.enterprises.get(call.enterprise)
    _, actions = split(file)
    chat_names = {chat.id: chat.name for chat in view.directory.chats_of(call.enterprise)}
    rows = rows_of(file, call, words, view.locale.plan)
    shown = rows[page * ROWS : (page + 1) * ROWS]
    chats, names, gaps = chats_of(actions), names_of(file), gaps_of(file, call, words)
    html = (
        templates()
        .get_template("call.html")
        .render(
            words=words,
            call=call,
            sign=direction_sign(call),
            result=result_words(call, names, words),
            client=words.party(call.client, names)
            if call.client
            else words["hidden"]
            if call.direction != "internal"
            else "",
            badges=badges_of(file, call, words, gaps),
            facts=facts_of(file, call, words, _title(enterprise, call.enterprise)),
            counts=counts_of(file, words),
            gaps=gaps,
            timeline=timeline_of(file, call, shown, chats, names=chat_names, words=words),
            rows=shown,
            inline=len(shown) <= INLINE,
            chats=[(chat, chat_names.get(chat.chat_id) or str(chat.chat_id)) for chat in chats],
            chat_names=chat_names,
            decisions=[row for row in shown if row.what == "skip"],
            legs=_legs(file, call, names, words),
            others=[(other, _other_url(view, other)) for other in _briefs(others, call.id, view)],
            links={
                "self": call_url(unique_id, view.query),
                "live": f"{call_url(unique_id)}/live{call_url('', view.query, '')}" if lives else "",
                "json": call_url(unique_id, view.query, "/api/calls/"),
                "log": _export(unique_id, "export.log", view),
                "mmd": _export(unique_id, "export.mmd", view),
                "record": _record_url(unique_id, view),
                "ru": call_url(unique_id, [*_but(view.query, "lang"), ("lang", "ru")]),
                "en": call_url(unique_id, [*_but(view.query, "lang"), ("lang", "en")]),
                "older": call_url(unique_id, [*view.query, ("p", str(page - 1))]) if page else "",
                "newer": call_url(unique_id, [*view.query, ("p", str(page + 1))]) if rows[(page + 1) * ROWS :] else "",
                "list": "/calls" if reader.operator else "",
            },
            cut=file.cut,
            as_html=Markup,
        )
    )
    return cleaned(html, enterprise, reader, numbers_of(file))


def _record_url(unique_id: str, view: View) -> Any:
    return lambda key: f"{call_url(unique_id)}/record/{key}{call_url('', view.query, '')}"


def _export(unique_id: str, name: str, view: View) -> str:
    return f"{call_url(unique_id, (), '/api/calls/')}/{name}{call_url('', view.query, '')}"


def _but(query: Iterable[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in query if key != name]


def _title(enterprise: Enterprise | None, number: str) -> str:
    return f"{number} {enterprise.name}".strip() if enterprise else number


class Leg(msgspec.Struct, frozen=True):
    unique_id: str
    device: str
    who: str
    number: str
    name: str
    channel: str
    seen: str


def _legs(file: CallFile, call: Any, names: dict[str, str], words: Wording) -> list[Leg]:
    events, _ = split(file)
    found = []
    for uid in dict.fromkeys(event.unique_id for event in events if event.unique_id):
        times = [event.received_at for event in events if event.unique_id == uid]
        leg = file.facts.legs.get(uid)
        found.append(
            Leg(
                uid,
                device_of(file, uid),
                whose(file, call, uid, names, words),
                words.number(leg.num) if leg else "",
                leg.name if leg else "",
                leg.channel if leg else "",
                f"{words.moment(times[0])} – {words.moment(times[-1])}",
            )
        )
    return found


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """A call as one line of a list."""

    call: Any
    sign: str
    day: str
    result: str
    client: str
    line: str
    who: str
    enterprise: str
    n_chats: int
    n_shown: int


def _briefs(listed: Iterable[Listed], but: int, view: View) -> list[Brief]:
    return [brief_of(one, view) for one in listed if one.facts.id != but]


def brief_of(one: Listed, view: View) -> Brief:
    facts, words = one.facts, view.words
    call = tell(facts, view.locale.plan)
    names: dict[str, str] = {}
    return Brief(
        call=call,
        sign=direction_sign(call),
        day=words.day(call.started_at),
        result=result_words(call, names, words),
        client=words.number(call.client) if call.client else words["hidden"] if call.direction != "internal" else "",
        line=call.line,
        who=words.parties(dict.fromkeys((call.caller, *(call.talkers or call.rung))), names).lstrip(", "),
        enterprise=call.enterprise,
        n_chats=one.n_chats,
        n_shown=one.n_shown,
    )


def _other_url(view: View, other: Brief) -> str:
    """Another call may be opened by those whose access is not to one call."""
    if view.reader.call is not None:
        return ""
    return call_url(other.call.unique_id, [*_but(view.query, "e"), ("e", other.enterprise)])


def list_page(view: View, **told: Any) -> str:
    html = templates().get_template("list.html").render(words=view.words, reader=view.reader, **told)
    if view.reader.masked:
        clients = [brief.call.client for brief in (*told["calls"], *told["live"])]
        html = NumberMask(clients)(html)
    for enterprise in view.directory.enterprises.values():
        if view.reader.may(enterprise.number):
            html = without_secrets(html, enterprise)
    return html


def login_page(words: Wording, **told: Any) -> str:
    return templates().get_template("login.html").render(words=words, **told)


def numbers_of(file: CallFile) -> set[str]:
    """Every outside number that a call's records may hold, for :class:`NumberMask`."""
    events, _ = split(file)
    return {number for event in events for number in numbers_in(event.raw)}


def cleaned(text: str, enterprise: Enterprise | None, reader: Reader, numbers: Iterable[str]) -> str:
    """What may leave the house: no secret of the enterprise, and no number for a reader who may not see them."""
    text = without_secrets(text, enterprise)
    return NumberMask(numbers)(text) if reader.masked else text


def since_words(words: Wording, at: datetime | None) -> str:
    return words.say("searched_to", time=words.day(at)) if at else ""
