"""One HTTP session for all bots: aiogram's, with a lean path beside it that loses nothing about a failed call.

``Bot(token, session=session)`` is cheap and its ordinary calls work. The sender goes through ``call``, which posts JSON
itself: twice as fast, and it knows whether a request that failed had left. A token is in the URL of the request and
nowhere else: aiohttp's exceptions hold that URL, so none of them gets out of here.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramNetworkError
from aiogram.methods import TelegramMethod
from aiogram.methods.base import TelegramType
from aiohttp import (
    BytesIOPayload,
    BytesPayload,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
)
from aiohttp.abc import AbstractStreamWriter
from aiohttp.hdrs import USER_AGENT

from callgram.audio import File
from callgram.context import Secret
from callgram.errors import ConfigError
from callgram.telegram.api import always
from callgram.telegram.outcome import Broken, Kind, Outcome, Reason, classify, op_of
from callgram.telegram.settings import SessionSettings

T = TypeVar("T")

SLOWEST_UPLOAD: Final = 100 * 1024
"""Bytes a second: an upload that is slower is given up, and is ambiguous."""
_NOT_JSON: Final = Outcome(kind=Kind.REJECTED, reason=Reason.CONTENT, description="cannot be written as JSON")
_encode = msgspec.json.Encoder().encode


class _Body(BytesPayload):
    """A JSON body that remembers whether it was given to a connection; aiohttp writes the headers together with it. It is not
    given where it ``may_leave`` no more.

    A trace (``on_request_headers_sent``) tells the same, but costs a sixth of the whole call.
    """

    left = False

    def __init__(self, body: bytes, may_leave: Callable[[], bool] = always) -> None:
        super().__init__(body, content_type="application/json")
        self._may_leave = may_leave

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._leave()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._leave()
        await super().write_with_length(writer, content_length)

    def _leave(self) -> None:
        if not self._may_leave():
            raise OSError("it may not be sent any more")
        self.left = True


class _Form(BytesIOPayload):
    """The same of a form with a file in it, which is written piece by piece."""

    left = False

    def __init__(self, body: bytes, boundary: str) -> None:
        super().__init__(io.BytesIO(body), content_type=f"multipart/form-data; boundary={boundary}")

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.left = True
        await super().write_with_length(writer, content_length)


class _SentFile(msgspec.Struct, frozen=True):
    file_id: str = ""


class _SentMedia(msgspec.Struct, frozen=True):
    """What a sent file became: Telegram may take one for another kind than it was sent as."""

    voice: _SentFile | None = None
    audio: _SentFile | None = None
    document: _SentFile | None = None


class TelegramSession(AiohttpSession):
    """See the module. Opens its connections at the first call, in the event loop of that call."""

    def __init__(self, settings: SessionSettings) -> None:
        """Raises ConfigError when the URL or the proxy cannot be used."""
        _check_url("api_url", settings.api_url, {"http", "https"})
        proxy = settings.proxy
        native = proxy is None or urlsplit(proxy).scheme in {"http", "https"}
        if proxy is not None:
            _check_url("proxy", proxy, {"http", "https", "socks4", "socks5"})
        try:
            super().__init__(
                proxy=None if native else proxy,
                limit=settings.pool_limit,
                api=TelegramAPIServer.from_base(settings.api_url),
                json_loads=msgspec.json.decode,
                json_dumps=lambda value: _encode(value).decode(),
                timeout=settings.read_timeout_s,
            )
        except RuntimeError:
            raise ConfigError("proxy: a SOCKS proxy needs the package aiohttp-socks") from None
        self._connector_init |= {"limit": settings.pool_limit, "keepalive_timeout": settings.keep_alive_s}
        self._http_proxy = proxy if native else None
        self._breaks: tuple[type[Exception], ...] = (ClientError, OSError)
        if not native:  # a refusal by a SOCKS proxy is neither of the two
            self._breaks += (import_module("aiohttp_socks").ProxyError,)
        # The total counts from the start, so that whoever waited for a connection still has the whole time to read.
        self._patience = ClientTimeout(
            total=settings.read_timeout_s + settings.connect_timeout_s,
            connect=settings.connect_timeout_s,
            sock_connect=settings.connect_timeout_s,
        )

    async def create_session(self) -> ClientSession:
        if self._should_reset_connector:
            await self.close()
        if self._session is None or self._session.closed:
            self._session = ClientSession(
                connector=self._connector_type(**self._connector_init),
                headers={USER_AGENT: "callgram"},
                cookie_jar=DummyCookieJar(),
                timeout=self._patience,
                proxy=self._http_proxy,
            )
            self._should_reset_connector = False
        return self._session

    async def close(self) -> None:
        """Close every connection, for all bots; a later call opens new ones. aiogram's pauses 250 ms here, in vain."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self, token: Secret, method: str, payload: dict[str, Any], *, may_leave: Callable[[], bool] = always
    ) -> Outcome:
        """Call ``method`` (spelt as the Bot API spells it) once. Never raises for what happens on the way. ``may_leave`` is asked
        when the request is about to be written; where it may not, it is not sent.

        Cancelling it leaves a send ambiguous: shield it on shutdown.
        """
        try:
            body = _encode(payload)
        except (UnicodeEncodeError, TypeError):
            return _NOT_JSON
        status, answer, took_s = await self._post(token, method, _Body(body, may_leave))
        return _without(token, classify(op_of(method), status, answer, took_s=took_s))

    async def ask(
        self, token: Secret, method: str, payload: dict[str, Any], shape: type[T]
    ) -> tuple[Outcome, T | None]:
        """Like ``call``, for a method whose result is wanted: as ``shape``, ``None`` unless the outcome is ok."""
        status, answer, took_s = await self._post(token, method, _Body(_encode(payload)))
        outcome = _without(token, classify(op_of(method), status, answer, took_s=took_s))
        if not outcome.ok or isinstance(answer, Broken):
            return outcome, None
        try:
            return outcome, msgspec.convert(msgspec.json.decode(answer)["result"], shape)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            unlike = msgspec.structs.replace(outcome, kind=Kind.SERVER, reason=Reason.SERVER, description="odd result")
            return unlike, None

    async def send_file(self, token: Secret, file: File, payload: dict[str, Any]) -> tuple[Outcome, str]:
        """Like ``call``, for one of sendVoice, sendAudio, sendDocument: uploads ``file``, or names it where it was uploaded
        before. Also answers its ``file_id``, ``""`` unless the outcome is ok. An upload may take as long as its size needs."""
        form, given = file.form, payload | ({} if file.body else {file.form.field: file.file_id})
        outgoing = _form(given, file) if file.body else _Body(_encode(given))
        total = (self._patience.total or 0.0) + file.size / SLOWEST_UPLOAD
        patience = ClientTimeout(total, connect=self._patience.connect, sock_connect=self._patience.sock_connect)
        status, answer, took_s = await self._post(token, form.method, outgoing, patience if file.body else None)
        outcome = _without(token, classify(op_of(form.method), status, answer, took_s=took_s))
        if not outcome.ok or isinstance(answer, Broken):
            return outcome, ""
        try:
            media = msgspec.convert(msgspec.json.decode(answer)["result"], _SentMedia)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            return outcome, ""
        sent = getattr(media, form.field)
        return outcome, sent.file_id if sent else ""

    async def _post(
        self, token: Secret, method: str, outgoing: _Body | _Form, patience: ClientTimeout | None = None
    ) -> tuple[int, bytes | Broken, float]:
        started = perf_counter()
        status = 0
        answer: bytes | Broken
        try:
            http = self._session
            if http is None or http.closed or self._should_reset_connector:
                http = await self.create_session()
            async with http.post(
                self.api.api_url(token.reveal(), method),
                data=outgoing,
                allow_redirects=False,
                timeout=patience or self._patience,
            ) as response:
                status = response.status
                answer = await response.read()
        except self._breaks as error:
            answer = Broken(type(error).__name__, outgoing.left)
            status = 0
        return status, answer, perf_counter() - started

    async def make_request(
        self, bot: Bot, method: TelegramMethod[TelegramType], timeout: int | None = None
    ) -> TelegramType:
        try:
            return await super().make_request(bot, method, timeout)
        except TelegramNetworkError as error:
            if type(error) is not TelegramNetworkError:  # an answer of Telegram's: the entity is too large
                raise
            what = type(error.__cause__ or error).__name__
        # Out of the except block, so that aiohttp's exception with its URL is not even the context of this one.
        raise TelegramNetworkError(method=method, message=what)


def _form(payload: dict[str, Any], file: File) -> _Form:
    """A body of multipart/form-data (RFC 7578): values as the Bot API reads them, JSON where they are no text; the file last."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + (value.encode() if isinstance(value, str) else _encode(value))
        + b"\r\n"
        for name, value in payload.items()
    ]
    form = file.form
    head = f'Content-Disposition: form-data; name="{form.field}"; filename="{form.name}"\r\nContent-Type: {form.media_type}'
    parts += [f"--{boundary}\r\n{head}\r\n\r\n".encode(), file.body, f"\r\n--{boundary}--\r\n".encode()]
    return _Form(b"".join(parts), boundary)


def _without(token: Secret, outcome: Outcome) -> Outcome:
    """``outcome`` without the token, also where it is too odd to be recognised as one."""
    secret = token.reveal()
    if outcome.description and secret and secret in outcome.description:
        return msgspec.structs.replace(outcome, description=outcome.description.replace(secret, "***"))
    return outcome


def _check_url(name: str, url: str, schemes: set[str]) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(character in url for character in "{} ?#"):
        raise ConfigError(f"{name}: want {' or '.join(sorted(schemes))}://host[:port], without a query")
