"""The server: one port for the Bot API (``/bot<token>/<method>``), the control API (``/sim/``) and the view (``/``).

A plain handler without router or middlewares: it is fast, and it has the connection in hand for faults that break it.
"""

import asyncio
from contextlib import suppress
from importlib.resources import files
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from aiohttp import web

from callgram_simulator import control
from callgram_simulator.dispatch import JSON, Answer, answer, refusal
from callgram_simulator.errors import ApiError, bad_request
from callgram_simulator.params import Params, Upload
from callgram_simulator.settings import SimulatorSettings
from callgram_simulator.state import State
from callgram_simulator.webhook import Deliveries

IDLE_CONNECTION_S = 500.0  # HttpServer.h:69
_PAGE_FILES = {
    "/": ("chat.html", "text/html"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.js": ("chat.js", "text/javascript"),
}
_PAGE_POLICY = "default-src 'none'; img-src 'self' data:" + "".join(
    f"; {kind}-src 'self'" for kind in ("script", "style", "connect", "media")
)
_PING_S = 15.0
_MAX_FORM = 64 * 1024 * 1024  # above the limit of a file, which is checked where it is used


class Simulator:
    """A running simulator: ``async with Simulator(SimulatorSettings(port=0)) as simulator: ... simulator.url``."""

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self.state = State(self.settings)
        self.url = ""
        self._deliveries = Deliveries(self.state)
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        server = web.Server(self._handle, access_log=None, keepalive_timeout=IDLE_CONNECTION_S)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.settings.host, self.settings.port).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.state.feed.close()
        for bot in self.state.bots.values():
            bot.inbox.release_poll()
        await self._deliveries.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if path.startswith("/bot"):
            return await self._answer_bot(request, path, query)
        if path in _PAGE_FILES and request.method in ("GET", "HEAD"):
            return _page_file(path)
        if path == "/sim/events":
            return await self._stream(request)
        if path.startswith("/sim/files/"):
            return self._file(path.removeprefix("/sim/files/"))
        if path.startswith("/sim/"):
            return await self._answer_control(request, path, query)
        return _response(refusal(ApiError(404, "Not Found")))

    async def _answer_bot(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        token, slash, method = path[len("/bot") :].partition("/")
        if not slash or not method:
            return _response(refusal(ApiError(404, "Not Found")))
        try:
            params = await _read_params(request, query)
        except ApiError as error:
            return _response(refusal(error))
        token, method = unquote(token), method.lower()
        done = await answer(self.state, token, method, params)
        if method == "setwebhook" and done.status == 200:
            self._deliveries.begin(int(token.partition(":")[0]))
        return _response(done) if done.ending == "whole" else await _broken_response(request, done)

    async def _answer_control(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        try:
            if origin and urlsplit(origin).netloc != request.headers.get("Host"):
                raise ApiError(403, "Forbidden: another site's page may not steer the simulator")
            if request.method == "POST":
                shown = control.take_order(self.state, path, await request.read())
            else:
                shown = control.show(self.state, path, dict(parse_qsl(query)))
        except ApiError as error:
            return _response(refusal(error))
        return web.Response(body=msgspec.json.encode(shown), content_type=JSON)

    def _file(self, file_id: str) -> web.Response:
        """What a bot uploaded, for the view to play: audio only, whatever its bot says that it is."""
        file = self.state.files.get(unquote(file_id))
        if file is None or not file.body:
            return _response(refusal(ApiError(404, "Not Found: no such file")))
        told = file.media.mime_type or ""
        kind = told if told.startswith("audio/") and told.isprintable() else "application/octet-stream"
        return web.Response(body=file.body, content_type=kind, headers={"X-Content-Type-Options": "nosniff"})

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Server-sent events: every change from now on, a ping now and then."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        with self.state.feed.watch() as queue, suppress(ConnectionResetError):  # the watcher went away
            await response.write(b"retry: 1000\n\n")
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), _PING_S)
                except TimeoutError:
                    await response.write(b": ping\n\n")
                    continue
                if event is None:
                    break
                await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
        return response


async def run(settings: SimulatorSettings) -> None:
    """Serve until cancelled."""
    async with Simulator(settings):
        await asyncio.Event().wait()


async def _read_params(request: web.BaseRequest, query: str) -> Params:
    """Merge query and body; raise ``ApiError`` for a body that can't be read."""
    given: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
    if not request.body_exists:
        return Params(given)
    kind = request.content_type
    if kind == JSON:
        try:
            given.update(msgspec.json.decode(await request.read(), type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise bad_request("can't parse JSON object") from error
    elif kind == "multipart/form-data":
        posted = await request.clone(client_max_size=_MAX_FORM).post()
        given.update({name: value for name, value in posted.items() if isinstance(value, str)})
        files = {}
        for name, value in posted.items():
            if isinstance(value, web.FileField):
                with value.file as source:
                    files[name] = Upload(value.filename, value.content_type, source.read())
        return Params(given, files)
    else:
        given.update(parse_qsl((await request.read()).decode(errors="replace"), keep_blank_values=True))
    return Params(given)


def _response(done: Answer) -> web.Response:
    headers = {"Retry-After": str(done.retry_after_s)} if done.retry_after_s is not None else None
    return web.Response(status=done.status, body=done.body, content_type=done.content_type, headers=headers)


async def _broken_response(request: web.BaseRequest, done: Answer) -> web.StreamResponse:
    """Break the connection, before the answer or in the middle of it."""
    response = web.StreamResponse(status=done.status or 200)
    if done.ending == "truncated":
        response.content_type = done.content_type
        response.content_length = len(done.body)
        await response.prepare(request)
        await response.write(done.body[: len(done.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _page_file(path: str) -> web.Response:
    name, content_type = _PAGE_FILES[path]
    body = files("callgram_simulator").joinpath("view", name).read_bytes()
    headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
    return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)
