"""The HTTP face of the call page: the page, its parts, its exports, and the API. Read-only; access is all in ``access``.

Unknown, foreign and expired are one bare 404. Every answer forbids framing, indexing, referrers, and anything from elsewhere.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream

from callgram import CallFile, CallFilter, Directory, Listed, Locale, Store, StoreError, tell
from callgram_details import page
from callgram_details.access import LANGUAGES, Reader, call_of, reader_of
from callgram_details.exports import CallOut, call_out, log_of, mermaid_of
from callgram_details.keys import Vault
from callgram_details.rows import rows_of
from callgram_details.story import badges_of, facts_of, gaps_of, names_of, result_words
from callgram_details.wording import Wording

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-store",
}
SAME_CLIENT = 6
LIVE_S, LOOK_S, QUIET_S, MOST_STREAMS = 900.0, 1.0, 20.0, 200
Ask = Request[Any, Any, Any]


class Site:
    """What the routes work with."""

    def __init__(self, store: Store, vault: Vault, settings: Any, process: Any) -> None:
        self.store, self.vault, self.settings, self.process = store, vault, settings, process
        self.n_streams = 0
        self._directory: Directory | None = None
        self._renew_at = 0.0

    @property
    def session_s(self) -> int:
        return int(self.settings.session_hours * 3600)

    async def directory(self) -> Directory:
        """The enterprises as they were at most two seconds ago."""
        if self._directory is None or time.monotonic() >= self._renew_at:
            self._directory = await self.store.directory()
            self._renew_at = time.monotonic() + 2.0
        return self._directory

    def reader(self, request: Ask) -> Reader | None:
        return reader_of(request, self.vault, self.session_s)

    def locale(self, enterprise: str) -> Locale:
        locale: Locale = self.process.plugins.call_settings(enterprise).locale()
        return locale

    def wording(self, request: Ask, locale: Locale) -> Wording:
        asked = request.query_params.get("lang", "")
        return Wording(asked if asked in LANGUAGES else locale.language, locale.tz)

    async def opened(self, request: Ask, unique_id: str) -> tuple[page.View, CallFile]:
        """The call that the request is about. Raises the 404 that says nothing."""
        reader = self.reader(request)
        if reader is None:
            raise nothing_here()
        directory = await self.directory()
        file = await call_of(self.store, directory, reader, unique_id, request.query_params.get("e", ""))
        if file is None or not reader.may(file.facts.enterprise):
            raise nothing_here()
        locale = self.locale(file.facts.enterprise)
        kept = [(name, request.query_params.get(name, "")) for name in ("s", "e", "lang")]
        view = page.View(
            reader=reader,
            words=self.wording(request, locale),
            locale=locale,
            directory=directory,
            query=tuple((name, value) for name, value in kept if value),
        )
        return view, file

    def clean(self, text: str, view: page.View, file: CallFile) -> str:
        enterprise = view.directory.enterprises.get(file.facts.enterprise)
        return page.cleaned(text, enterprise, view.reader, page.numbers_of(file))


def nothing_here() -> NotFoundException:
    return NotFoundException()


def bare(request: Ask, error: Exception) -> Response[bytes]:
    """The one answer to whatever may not be seen, and to a store that is away."""
    status, text = (503, b"Try again later") if isinstance(error, StoreError) else (404, b"Not found")
    return Response(text, status_code=status, media_type=MediaType.TEXT, headers=HEADERS)


def answered(request: Ask, text: str, media_type: str, *, headers: dict[str, str] | None = None) -> Response[bytes]:
    """``text``, compressed where the client takes it: nothing secret is on a page next to what an outsider chose."""
    body = text.encode("utf-8", "replace")
    told = {**HEADERS, **(headers or {})}
    if len(body) > 1_000 and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 4, mtime=0)
        told |= {"content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(body, media_type=media_type, headers=told)


CAUGHT: Any = {NotFoundException: bare, StoreError: bare}
HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
JSON_ANSWER = {404: ResponseSpec(data_container=None, description="Unknown, foreign, or not allowed")}


def page_number(request: Ask) -> int:
    text = request.query_params.get("p", "0")
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def make_routes(site: Site) -> list[Any]:
    @get("/call/details/{unique_id:str}", include_in_schema=False, exception_handlers=CAUGHT)
    async def details(request: Ask, unique_id: FromPath[str]) -> Response[bytes]:
        view, file = await site.opened(request, unique_id)
        call = tell(file.facts, view.locale.plan)
        others: tuple[Listed, ...] = ()
        if call.client:
            wanted = CallFilter(enterprises=(call.enterprise,), number=call.client)
            others = (await site.store.list_calls(wanted, limit=SAME_CLIENT)).calls
        html = page.call_page(view, file, unique_id, others, page=page_number(request), lives=not _is_over(file))
        return answered(request, html, HTML)

    @get("/call/details/{unique_id:str}/record", include_in_schema=False, exception_handlers=CAUGHT)
    async def record(request: Ask, unique_id: FromPath[str]) -> Response[bytes]:
        """One row in full, ``?key=``: for pages that are too long to carry them all."""
        view, file = await site.opened(request, unique_id)
        html = page.record_page(view, file, unique_id, request.query_params.get("key", ""))
        if not html:
            raise nothing_here()
        return answered(request, html, HTML)

    @get("/call/details/{unique_id:str}/rest", include_in_schema=False, exception_handlers=CAUGHT)
    async def rest(request: Ask, unique_id: FromPath[str]) -> Response[bytes]:
        """What a page that is too long to carry everything leaves out."""
        view, file = await site.opened(request, unique_id)
        return answered(request, page.rest_page(view, file, unique_id), HTML)

    @get("/call/details/{unique_id:str}/live", include_in_schema=False, exception_handlers=CAUGHT)
    async def live(request: Ask, unique_id: FromPath[str]) -> Response[Any]:
        """Server-sent events: ``changed`` whenever there is something new on the page. 204 ends it."""
        _, file = await site.opened(request, unique_id)
        if site.n_streams >= MOST_STREAMS or _is_over(file):
            return Response(b"", status_code=204, headers=HEADERS)
        stream = _changes(site, file)
        return Stream(stream, media_type="text/event-stream", headers={**HEADERS, "x-accel-buffering": "no"})

    @get("/details/assets/{name:str}", include_in_schema=False, exception_handlers=CAUGHT)
    async def assets(name: FromPath[str]) -> Response[bytes]:
        text = page.asset(name)
        if text is None:
            raise nothing_here()
        kept = {**HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        return Response(text, media_type=f"{page.ASSETS[name]}; charset=utf-8", headers=kept)

    @get("/api/calls/{unique_id:str}", tags=["calls"], exception_handlers=CAUGHT, responses=JSON_ANSWER)
    async def api_call(request: Ask, unique_id: FromPath[str]) -> Response[CallOut]:
        """Everything about a call, by the UniqueId of any of its channels or its Linkedid.

        Needs ``Authorization: Bearer`` with a token of the enterprise, a signed link's ``s``, or a session. ``e`` chooses
        the enterprise where several of yours have the id; ``lang`` is ru or en.
        """
        view, file = await site.opened(request, unique_id)
        text = msgspec.json.encode(_out(view, file)).decode()
        return answered(request, site.clean(text, view, file), "application/json")  # type: ignore[return-value]

    @get("/api/calls/{unique_id:str}/export.log", tags=["calls"], exception_handlers=CAUGHT, media_type="text/plain")
    async def api_log(request: Ask, unique_id: FromPath[str]) -> Response[bytes]:
        """The call as lines of a trace file; ``callgram replay`` takes them."""
        view, file = await site.opened(request, unique_id)
        return answered(request, site.clean(log_of(file, view.words), view, file), TEXT, headers=_named("call.log"))

    @get("/api/calls/{unique_id:str}/export.mmd", tags=["calls"], exception_handlers=CAUGHT, media_type="text/plain")
    async def api_mermaid(request: Ask, unique_id: FromPath[str]) -> Response[bytes]:
        """The call as a Mermaid sequence diagram."""
        view, file = await site.opened(request, unique_id)
        call = tell(file.facts, view.locale.plan)
        rows = rows_of(file, call, view.words, view.locale.plan)
        chats = {chat.id: chat.name for chat in view.directory.chats_of(call.enterprise)}
        text = mermaid_of(file, call, rows, chats, view.words)
        return answered(request, site.clean(text, view, file), TEXT, headers=_named("call.mmd"))

    return [details, record, rest, live, assets, api_call, api_log, api_mermaid]


def _named(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _out(view: page.View, file: CallFile) -> CallOut:
    words, call = view.words, tell(file.facts, view.locale.plan)
    enterprise = view.directory.enterprises.get(call.enterprise)
    gaps = gaps_of(file, call, words)
    return call_out(
        file,
        call,
        rows_of(file, call, words, view.locale.plan),
        words,
        result=result_words(call, names_of(file), words),
        badges=badges_of(file, call, words, gaps),
        facts=facts_of(file, call, words, page.title_of(enterprise, call.enterprise)),
        gaps=gaps,
    )


# Live


def _mark(file: CallFile) -> tuple[int, int, int]:
    return file.facts.version, len(file.records), sum(file.repeats.values())


def _is_over(file: CallFile) -> bool:
    """The call has ended, or was closed, and nothing came for a while."""
    facts = file.facts
    over = bool(facts.hangups) or facts.closed_at is not None
    return over and (datetime.now(UTC) - facts.last_at).total_seconds() > QUIET_S


async def _changes(site: Site, file: CallFile) -> AsyncIterator[bytes]:
    enterprise, call_id, known = file.facts.enterprise, file.facts.id, _mark(file)
    ends_at = time.monotonic() + LIVE_S
    site.n_streams += 1
    try:
        yield b"retry: 2000\n\n"
        while time.monotonic() < ends_at:
            await asyncio.sleep(LOOK_S)
            try:
                now = await site.store.call_file(enterprise, call_id)
            except StoreError:
                continue
            if now is None or _is_over(now):
                return
            if _mark(now) != known:
                known = _mark(now)
                yield b"event: changed\ndata: 1\n\n"
            else:
                yield b": still here\n\n"  # a client that went away is noticed by writing to it
    finally:
        site.n_streams -= 1
