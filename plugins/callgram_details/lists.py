"""The calls list behind its login: filters in the URL, pages by key, CSV, live calls on top; and the login itself."""

from __future__ import annotations

import csv
import io
import re
import secrets
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get, post
from litestar.response import Redirect

from callgram import CallFilter, CallPage, Direction, Directory, Listed, Locale, Result
from callgram_details import page
from callgram_details.access import LANGUAGES, SESSION, Reader, operator_in
from callgram_details.accounts import Operator, Throttle, logged_in
from callgram_details.briefs import Brief, brief_of
from callgram_details.routes import CAUGHT, HEADERS, HTML, Ask, Site, answered
from callgram_details.secrets_gone import NumberMask
from callgram_details.wording import Wording

PER_PAGE = 50
PER_CSV, MOST_CSV = 100, 10_000  # calls that are read and told at a time: events wait for as long; and in all
FORM = "callgram_form"
LOGIN, CALLS = "/calls/login", "/calls"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The filter as it stands in the URL: text, to be shown again as it was."""

    since: str = ""
    until: str = ""
    number: str = ""
    extension: str = ""
    direction: str = ""
    result: str = ""
    enterprise: str = ""
    unsent: str = ""
    lang: str = ""

    def query(self, **more: str) -> str:
        told = {name: value for name, value in (msgspec.structs.asdict(self) | more).items() if value}
        return f"?{urlencode(told)}" if told else ""


def asked_by(request: Ask) -> Asked:
    told = {name: request.query_params.get(name, "") for name in Asked.__struct_fields__}
    return Asked(**{name: text.replace("\0", "")[:64] for name, text in told.items()})  # no database keeps NUL


def filter_of(asked: Asked, reader: Reader, locale: Locale) -> CallFilter:
    """What of ``asked`` can be read, within what ``reader`` may see. What cannot be read filters nothing."""
    enterprises = reader.enterprises
    if asked.enterprise:
        enterprises = (asked.enterprise,) if reader.may(asked.enterprise) else ()
    return CallFilter(
        enterprises=enterprises,
        since=_moment(asked.since, locale.tz),
        until=_moment(asked.until, locale.tz),
        number=_digits(asked.number, locale),
        extension=re.sub(r"\s", "", asked.extension),
        direction=Direction(asked.direction) if asked.direction in set(Direction) else None,
        result=Result(asked.result) if asked.result in set(Result) else None,
        unsent=bool(asked.unsent),
    )


def _digits(text: str, locale: Locale) -> str:
    """Any form of a number, or its last digits."""
    return re.sub(r"\D", "", locale.plan.canonical(text)) if re.search(r"\d", text) else ""


def _moment(text: str, zone: tzinfo) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)) if text else None
    except ValueError:
        return None


def make_list_routes(site: Site) -> list[Any]:
    by_login, by_address = Throttle(5), Throttle(30)  # many may come from one address, that of a proxy

    def operator_asking(request: Ask) -> Operator | None:
        return operator_in(request, site.vault, site.session_s) if site.vault.is_open else None

    @get(CALLS, include_in_schema=False, exception_handlers=CAUGHT)
    async def calls(request: Ask) -> Response[Any]:
        operator = operator_asking(request)
        if operator is None:
            return to_login(request.url.query)
        view, asked = await _view(site, request, operator), asked_by(request)
        found = await _page(site, view, asked, request.query_params.get("after", ""), PER_PAGE)
        now = await site.store.live_calls(filter_of(asked, view.reader, view.locale).enterprises)
        briefs = [_brief(site, view, one) for one in found.calls]
        live = [_brief(site, view, one) for one in now]
        html = page.list_page(
            view,
            asked=asked,
            calls=briefs,
            urls=[_url(brief) for brief in briefs],
            live=live,
            live_urls=[_url(brief) for brief in live],
            next=f"{CALLS}{asked.query(after=found.next)}" if found.next else "",
            searched=page.since_words(view.words, found.searched_to) if len(briefs) < PER_PAGE else "",
            csv=f"/calls.csv{asked.query()}",
            enterprises=sorted(view.reader.among(view.directory.enterprises)),
            csrf=site.vault.sign_form(request.cookies.get(SESSION, "")),
            languages=[(one, f"{CALLS}{asked.query(lang=one)}") for one in LANGUAGES],
        )
        return answered(request, html, HTML)

    @get("/calls.csv", include_in_schema=False, exception_handlers=CAUGHT)
    async def calls_csv(request: Ask) -> Response[Any]:
        operator = operator_asking(request)
        if operator is None:
            return to_login(request.url.query)
        view, asked = await _view(site, request, operator), asked_by(request)
        text = await _csv(site, view, asked)
        told = {"content-disposition": 'attachment; filename="calls.csv"'}
        return answered(request, text, "text/csv; charset=utf-8", headers=told)

    @get(LOGIN, include_in_schema=False, exception_handlers=CAUGHT)
    async def login_form(request: Ask) -> Response[Any]:
        return _form(site, request, "", 200)

    @post(LOGIN, include_in_schema=False, exception_handlers=CAUGHT, status_code=303)
    async def log_in(request: Ask) -> Response[Any]:
        form = await request.form()
        login, password = str(form.get("login", ""))[:64], str(form.get("password", ""))[:200]
        if not site.vault.is_open or not _is_ours(site, request, str(form.get("csrf", ""))):
            return _form(site, request, "wrong_login", 403)
        address = request.client.host if request.client else ""
        who = f"{login} {address}"
        if not (by_login.is_open(who) and by_address.is_open(address)):
            return _form(site, request, "slow_down", 429)
        operator = await logged_in(site.vault, login, password)
        if operator is None:
            by_login.note(who)
            by_address.note(address)
            return _form(site, request, "wrong_login", 403)
        answer = Redirect(_next(str(form.get("next", ""))), status_code=303, headers=HEADERS)
        told = site.vault.sign_session([operator.login, operator.seal])
        answer.set_cookie(
            key=SESSION,
            value=told,
            max_age=site.session_s,
            httponly=True,
            samesite="lax",
            secure=_is_secure(site, request),
        )
        return answer

    @post("/calls/logout", include_in_schema=False, exception_handlers=CAUGHT, status_code=303)
    async def log_out(request: Ask) -> Response[Any]:
        form = await request.form()
        answer = Redirect(LOGIN, status_code=303, headers=HEADERS)
        if site.vault.is_open and site.vault.is_form(str(form.get("csrf", "")), request.cookies.get(SESSION, "")):
            answer.delete_cookie(SESSION)
        return answer

    return [calls, calls_csv, login_form, log_in, log_out]


def to_login(query: str) -> Response[Any]:
    return Redirect(f"{LOGIN}?{urlencode({'next': query})}" if query else LOGIN, status_code=303, headers=HEADERS)


def _next(query: str) -> str:
    """Back to the list with the filter that was asked for; nowhere else."""
    return f"{CALLS}?{query}" if query and not re.search(r"[\s\\#]", query) else CALLS


def _is_secure(site: Site, request: Ask) -> bool:
    return request.url.scheme == "https" or str(site.settings.base_url).startswith("https://")


def _form(site: Site, request: Ask, error: str, status: int) -> Response[Any]:
    """The login form. Its token is bound to a cookie that only this browser has."""
    locale = site.process.plugins.defaults.locale()
    words = site.wording(request, locale)
    cookie = request.cookies.get(FORM) or secrets.token_urlsafe(18)
    token = site.vault.sign_form(cookie) if site.vault.is_open else ""
    text = page.login_page(words, csrf=token, error=error, next=request.query_params.get("next", ""))
    answer = Response(text.encode(), status_code=status, media_type=HTML, headers=HEADERS)
    answer.set_cookie(
        key=FORM,
        value=cookie,
        max_age=3600,
        path="/calls",
        httponly=True,
        samesite="strict",
        secure=_is_secure(site, request),
    )
    return answer


def _is_ours(site: Site, request: Ask, token: str) -> bool:
    return site.vault.is_form(token, request.cookies.get(FORM, ""))


async def _view(site: Site, request: Ask, operator: Operator) -> page.View:
    directory: Directory = await site.directory()
    locale = site.process.plugins.defaults.locale()
    asked = request.query_params.get("lang", "")
    return page.View(
        reader=Reader(enterprises=operator.enterprises, masked=operator.masked, operator=operator),
        words=Wording(asked if asked in LANGUAGES else locale.language, locale.tz),
        locale=locale,
        directory=directory,
        query=(),
    )


def _brief(site: Site, view: page.View, one: Listed) -> Brief:
    """A line with the clock and the number plan of its enterprise; the words are the reader's."""
    locale = site.locale(one.facts.enterprise)
    return brief_of(one, Wording(view.words.language, locale.tz), locale.plan)


async def _page(site: Site, view: page.View, asked: Asked, after: str, limit: int) -> CallPage:
    wanted = filter_of(asked, view.reader, view.locale)
    try:
        return await site.store.list_calls(wanted, after=after, limit=limit)
    except ValueError:  # somebody changed the key by hand
        return await site.store.list_calls(wanted, limit=limit)


def _url(brief: Brief) -> str:
    return page.call_url(brief.call.unique_id, [("e", brief.enterprise)])


async def _csv(site: Site, view: page.View, asked: Asked) -> str:
    """Up to MOST_CSV calls, however many short pages that takes; the last line says it where there are more."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["began", "enterprise", "unique_id", "direction", "result", "client", "who", "line", "wait_s", "talk_s"]
    )
    after, n_calls, clients = "", 0, set()
    while True:
        found = await _page(site, view, asked, after, min(PER_CSV, MOST_CSV - n_calls))
        briefs = [_brief(site, view, one) for one in found.calls]
        clients |= {brief.call.client for brief in briefs}
        writer.writerows(_cells(site, brief) for brief in briefs)
        after, n_calls = found.next, n_calls + len(briefs)
        if not after or n_calls >= MOST_CSV:
            break
    if after:
        writer.writerow([view.words.say("csv_cut", n=n_calls)])
    text = out.getvalue()
    return NumberMask(clients)(text) if view.reader.masked else text


def _cells(site: Site, brief: Brief) -> list[str]:
    call = brief.call
    cells = [
        call.started_at.astimezone(site.locale(call.enterprise).tz).isoformat(timespec="seconds"),
        brief.enterprise,
        call.unique_id,
        str(call.direction),
        str(call.result),
        call.client,
        brief.who,
        call.line,
        "" if call.wait_s is None else f"{call.wait_s:.1f}",
        "" if call.talk_s is None else f"{call.talk_s:.1f}",
    ]
    return [_harmless(cell) for cell in cells]


def _harmless(cell: str) -> str:
    """What a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell
