"""The pages, drawn: what the templates get, and what is taken out of what they give."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from callgram import CallFile, Directory, Enterprise, Listed, Locale, tell, visible
from callgram_details.access import Reader
from callgram_details.briefs import Brief, brief_of
from callgram_details.chats import chats_of
from callgram_details.legs import legs_of
from callgram_details.rows import WHOLE, Row, rows_of
from callgram_details.secrets_gone import NumberMask, numbers_in, without_secrets
from callgram_details.story import (
    badges_of,
    counts_of,
    facts_of,
    gaps_of,
    names_of,
    result_words,
    split,
)
from callgram_details.timeline import direction_sign, timeline_of
from callgram_details.wording import Wording

ASSETS = {"details.css": "text/css", "details.js": "text/javascript", "icon.svg": "image/svg+xml"}
ROWS = 2_000  # of one page; a longer call goes on on the next
WHOLE_BYTES = 140_000  # a page of at most this and WHOLE rows carries everything; of a longer one the rest is asked for
GAPS, BRIEF_BYTES = 30, 56
_RECORDING = re.compile(r"https?://[^?#]+?(/recording/[\w.\-]+)")


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
    environment.filters["brief"] = brief_row
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
    """The page of a call. A long one is thin: its bodies, all but the newest moments, and the tables are asked for."""
    told = _told(view, file, unique_id)
    rows = told["rows"]
    shown = rows[page * ROWS : (page + 1) * ROWS]
    call, words, chat_names = told["call"], view.words, told["chat_names"]
    told |= {
        "rows": shown,
        "most_gaps": GAPS,
        "sign": direction_sign(call),
        "player": player_of(call.recording_link),
        "client": words.party(call.client, told["names"])
        if call.client
        else words["hidden"]
        if call.direction != "internal"
        else "",
        "badges": badges_of(file, call, words, told["gaps"]),
        "facts": facts_of(file, call, words, title_of(told["enterprise"], call.enterprise)),
        "counts": [(words[f"n_{sort}"], number) for sort, number in counts_of(file).items()],
        "others": [(other, _other_url(view, other)) for other in _briefs(others, call.id, view)],
        "cut": file.cut,
    }
    told["links"] = told["links"] | {
        "live": f"{call_url(unique_id)}/live{call_url('', view.query, '')}" if lives else "",
        "older": call_url(unique_id, [*view.query, ("p", str(page - 1))]) if page else "",
        "newer": call_url(unique_id, [*view.query, ("p", str(page + 1))]) if rows[(page + 1) * ROWS :] else "",
    }
    chats = [chat for chat, _ in told["chats"]]

    def drawn(*, thin: bool) -> str:
        line = timeline_of(file, call, shown, chats, names=chat_names, words=words, dense=thin)
        return _drawn("call.html", view, file, {**told, "timeline": line, "thin": thin})

    html = drawn(thin=False) if len(rows) <= WHOLE else ""
    return html if html and len(html.encode("utf-8", "replace")) <= WHOLE_BYTES else drawn(thin=True)


def rest_page(view: View, file: CallFile, unique_id: str) -> str:
    """What the thin page of a long call leaves out: every moment of the chats, the decisions, the legs."""
    return _drawn("rest.html", view, file, _told(view, file, unique_id))


def record_page(view: View, file: CallFile, unique_id: str, key: str) -> str:
    """One row in full; ``""``: there is none with that key."""
    told = _told(view, file, unique_id, asked=key)
    row = next((row for row in told["rows"] if row.key == key), None)
    return _drawn("record.html", view, file, {**told, "row": row, "home": told["links"]["self"]}) if row else ""


def _told(view: View, file: CallFile, unique_id: str, *, asked: str = "") -> dict[str, Any]:
    """What all pages of a call say. ``asked``: the key of the row that has to be whole."""
    words = view.words
    call = tell(file.facts, view.locale.plan)
    chat_names = {chat.id: chat.name for chat in view.directory.chats_of(call.enterprise)}
    rows: list[Row] = rows_of(file, call, words, view.locale.plan, asked=asked)
    names = names_of(file)
    return {
        "words": words,
        "call": call,
        "enterprise": view.directory.enterprises.get(call.enterprise),
        "names": names,
        "result": result_words(call, names, words),
        "gaps": gaps_of(file, call, words),
        "rows": rows,
        "chats": [(chat, chat_names.get(chat.chat_id) or str(chat.chat_id)) for chat in chats_of(split(file)[1])],
        "chat_names": chat_names,
        "decisions": [row for row in rows if row.what == "skip"],
        "legs": legs_of(file, call, words),
        "links": _links(unique_id, view),
        "as_html": Markup,
    }


def _links(unique_id: str, view: View) -> dict[str, Any]:
    return {
        "self": call_url(unique_id, view.query),
        "record": f"{call_url(unique_id)}/record",
        "rest": f"{call_url(unique_id)}/rest{call_url('', view.query, '')}",
        "kept": view.query,
        "json": call_url(unique_id, view.query, "/api/calls/"),
        "log": _export(unique_id, "export.log", view),
        "mmd": _export(unique_id, "export.mmd", view),
        "ru": call_url(unique_id, [*_but(view.query, "lang"), ("lang", "ru")]),
        "en": call_url(unique_id, [*_but(view.query, "lang"), ("lang", "en")]),
        "list": "/calls" if view.reader.operator else "",
    }


def _drawn(template: str, view: View, file: CallFile, told: dict[str, Any]) -> str:
    html = visible(templates().get_template(template).render(**told))
    return cleaned(html, told["enterprise"], view.reader, numbers_of(file))


def brief_row(row: Row, chat_names: dict[int, str]) -> str:
    """What a row of a long page says: cut by bytes, for there the page is counted in them. All of it is in its record."""
    text = f"{chat_names.get(row.chat_id) or row.chat_id} ← {row.text}" if row.chat_id else f"{row.times} {row.text}".strip()
    if len(text.encode("utf-8", "replace")) <= BRIEF_BYTES:
        return text
    return text.encode("utf-8", "replace")[: BRIEF_BYTES - 3].decode("utf-8", "ignore") + "…"


def player_of(link: str) -> str:
    """Where this very site plays what ``link`` leads to; ``""`` for a link that is not of the plugin ``recordings``."""
    found = _RECORDING.fullmatch(link)
    return f"{found.group(1)}/audio" if found else ""


def _export(unique_id: str, name: str, view: View) -> str:
    return f"{call_url(unique_id, (), '/api/calls/')}/{name}{call_url('', view.query, '')}"


def _but(query: Iterable[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in query if key != name]


def title_of(enterprise: Enterprise | None, number: str) -> str:
    """The enterprise as people know it."""
    return f"{number} {enterprise.name}".strip() if enterprise else number


def _briefs(listed: Iterable[Listed], but: int, view: View) -> list[Brief]:
    return [brief_of(one, view.words, view.locale.plan) for one in listed if one.facts.id != but]


def _other_url(view: View, other: Brief) -> str:
    """Another call may be opened by those whose access is not to one call."""
    if view.reader.call is not None:
        return ""
    return call_url(other.call.unique_id, [*_but(view.query, "e"), ("e", other.enterprise)])


def list_page(view: View, **told: Any) -> str:
    html = visible(templates().get_template("list.html").render(words=view.words, reader=view.reader, **told))
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
