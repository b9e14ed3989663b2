"""The session against a server that behaves, one that does not, and none."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiogram import Bot
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import AiogramError, TelegramForbiddenError, TelegramRetryAfter

from callgram.cards import Message
from callgram.context import Secret
from callgram.errors import ConfigError
from callgram.telegram import Kind, Outcome, Reason, SessionSettings, open_session
from callgram.telegram.api import delete_messages, get_me, send_message
from callgram.telegram.session import TelegramSession

TOKEN = Secret("123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1")
SENT = {
    "message_id": 12,
    "date": 1700000000,
    "chat": {"id": 42, "type": "private", "first_name": "Ann"},
    "text": "hi",
}

Answer = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads a request, remembers it, and answers by ``behave``."""

    def __init__(self, behave: Answer) -> None:
        self.behave = behave
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                self.paths.append(path)
                self.bodies.append(await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0))
                self.asked.set()
                await self.behave(path, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(behave: Answer, **settings: Any) -> AsyncIterator[tuple[Server, TelegramSession]]:
    server = Server(behave)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    session = open_session(SessionSettings(api_url=server.url, **settings))
    try:
        yield server, session
    finally:
        await session.close()
        listener.close()
        await listener.wait_closed()


def answering(body: bytes | dict[str, Any], status: int = 200, headers: str = "") -> Answer:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)

    async def answer(_: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
        writer.write(head.encode() + raw)

    return answer


def refusing(status: int, description: str, **parameters: int) -> Answer:
    body = {"ok": False, "error_code": status, "description": description, "parameters": parameters}
    return answering(body, status)


def saying(raw: bytes) -> Answer:
    async def answer(_: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    return answer


async def reset(_: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silence(_: str, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await reader.read()


async def refer_back(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await answering(b"", 302, f"Location: {path}\r\n")(path, reader, writer)


async def echo(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await refusing(404, f"no route {path}")(path, reader, writer)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def send_to(url: str, **settings: Any) -> Outcome:
    session = open_session(SessionSettings(api_url=url, **settings))
    try:
        return await send_message(session, TOKEN, 42, Message("hi"))
    finally:
        await session.close()


def test_a_call_posts_json_to_the_bots_address() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, session):
            outcome = await send_message(session, TOKEN, 42, Message("hi"))

            assert (outcome.kind, outcome.status, outcome.message_id) == (Kind.OK, 200, 12)
            assert 0 < outcome.took_s < 5
            assert server.paths == [f"/bot{TOKEN.reveal()}/sendMessage"]
            assert msgspec.json.decode(server.bodies[0])["chat_id"] == 42

    asyncio.run(scenario())


def test_calls_of_all_bots_share_connections() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, session):
            for n in range(5):
                await send_message(session, Secret(f"{n}:x"), 42, Message("hi"))
            assert server.connections == 1

    asyncio.run(scenario())


def test_ordinary_bot_calls_work_beside_it_and_get_aiograms_exceptions() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, session):
            bot = Bot(TOKEN.reveal(), session=session)
            assert (await bot.send_message(42, "hi")).message_id == 12
            server.behave = refusing(429, "Too Many Requests: retry after 7", retry_after=7)
            with pytest.raises(TelegramRetryAfter):
                await bot.send_message(42, "hi")
            server.behave = refusing(403, "Forbidden: bot was blocked by the user")
            with pytest.raises(TelegramForbiddenError):
                await bot.send_message(42, "hi")

    asyncio.run(scenario())


def test_another_layout_of_addresses_can_be_set_as_with_aiogram() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, session):
            session.api = TelegramAPIServer(base=server.url + "/{token}/test/{method}", file="")
            assert (await session.call(Secret("1:a"), "sendMessage", {})).ok
            assert server.paths == ["/1:a/test/sendMessage"]

    asyncio.run(scenario())


def test_get_me_reads_the_bot() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": {"id": 7, "username": "calls_bot"}})) as (server, session):
            outcome, me = await get_me(session, TOKEN)
            assert outcome.ok
            assert me is not None
            assert me.username == "calls_bot"
            server.behave = answering({"ok": True, "result": True})
            outcome, me = await get_me(session, TOKEN)
            assert (outcome.kind, me) == (Kind.SERVER, None)
            server.behave = refusing(401, "Unauthorized")
            outcome, me = await get_me(session, TOKEN)
            assert (outcome.reason, me) == (Reason.TOKEN, None)

    asyncio.run(scenario())


MISBEHAVIOUR = [
    pytest.param(reset, "ClientOSError", id="a reset"),
    pytest.param(saying(b""), "ServerDisconnectedError", id="closed before the answer"),
    pytest.param(saying(b"HTTP/1.1 200 OK\r\nContent-"), "ServerDisconnectedError", id="half a head"),
    pytest.param(
        saying(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"ok":'), "ClientPayloadError", id="half a body"
    ),
    pytest.param(saying(b'HTTP/1.1 200 OK\r\n\r\n{"ok":true,"resu'), "HTTP 200", id="half a document"),
    pytest.param(saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "", id="another protocol"),
    pytest.param(answering(b"<html>502 Bad Gateway</html>", 502), "HTTP 502", id="502 html"),
    pytest.param(answering(b"<html>504</html>", 504), "HTTP 504", id="504 html"),
    pytest.param(refer_back, "HTTP 302", id="a redirection"),
    pytest.param(silence, "TimeoutError", id="no answer"),
    pytest.param(refusing(500, "Internal Server Error: restart"), "restart", id="a restart"),
]


@pytest.mark.parametrize(("behave", "described"), MISBEHAVIOUR)
def test_what_breaks_after_the_request_left_is_ambiguous_only_for_a_send(behave: Answer, described: str) -> None:
    async def scenario() -> None:
        async with running(behave, read_timeout_s=0.15, connect_timeout_s=0.1) as (_, session):
            outcome = await send_message(session, TOKEN, 42, Message("hi"))
            deleted = await delete_messages(session, TOKEN, 42, [1])

            assert outcome.kind is Kind.AMBIGUOUS
            assert described in outcome.description
            assert deleted[1].kind is Kind.SERVER

    asyncio.run(scenario())


def test_a_refused_port_is_not_sent() -> None:
    outcome = asyncio.run(send_to(f"http://127.0.0.1:{free_port()}"))

    assert (outcome.kind, outcome.description) == (Kind.NOT_SENT, "ClientConnectorError")


def test_an_unknown_host_is_not_sent() -> None:
    assert asyncio.run(send_to("http://callgram.invalid", connect_timeout_s=2)).kind is Kind.NOT_SENT


def test_a_failed_tls_handshake_is_not_sent() -> None:
    async def scenario(behave: Answer) -> Outcome:
        async with running(behave) as (server, _):
            return await send_to(server.url.replace("http:", "https:"), connect_timeout_s=0.2)

    assert asyncio.run(scenario(silence)).kind is Kind.NOT_SENT


@pytest.mark.parametrize("connected", [False, True], ids=["on a new connection", "on an open one"])
def test_what_may_not_leave_any_more_when_it_is_written_is_not_sent(connected: bool) -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, session):
            if connected:
                await send_message(session, TOKEN, 42, Message("one"))
            late = await send_message(session, TOKEN, 42, Message("two"), may_leave=lambda: False)
            after = await send_message(session, TOKEN, 42, Message("three"))

            assert late.kind is Kind.NOT_SENT
            assert after.ok
            assert [b"two" in body for body in server.bodies] == [False] * (1 + connected)

    asyncio.run(scenario())


def test_waiting_for_a_free_connection_in_vain_is_not_sent() -> None:
    async def scenario() -> None:
        settings = {"pool_limit": 1, "read_timeout_s": 0.5, "connect_timeout_s": 0.1}
        async with running(silence, **settings) as (server, session):
            first = asyncio.create_task(send_message(session, TOKEN, 42, Message("hi")))
            await server.asked.wait()
            second = await send_message(session, TOKEN, 43, Message("hi"))

            assert (second.kind, second.description) == (Kind.NOT_SENT, "ConnectionTimeoutError")
            assert (await first).kind is Kind.AMBIGUOUS
            assert len(server.paths) == 1

    asyncio.run(scenario())


def test_a_message_that_is_no_text_is_refused_before_it_leaves() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, session):
            broken = Message("half a smile: \ud83d")
            outcome = await send_message(session, TOKEN, 42, broken)
            assert (outcome.kind, outcome.reason) == (Kind.REJECTED, Reason.CONTENT)
            odd = await send_message(session, TOKEN, 42, Message("hi", (({"url": object()},),)))
            assert odd.reason is Reason.CONTENT
            assert not server.paths
            assert (await send_message(session, TOKEN, 42, broken, plain=True)).ok

    asyncio.run(scenario())


def test_an_http_proxy_gets_the_whole_address() -> None:
    async def scenario() -> None:
        async with running(answering({"ok": True, "result": SENT})) as (server, _):
            assert (await send_to("http://telegram.invalid", proxy=server.url)).ok
            assert server.paths[0].startswith("http://telegram.invalid/bot")
            tunnelled = await send_to("https://telegram.invalid", proxy=server.url, connect_timeout_s=1)
            assert tunnelled.kind is Kind.NOT_SENT
            assert server.paths[1] == "telegram.invalid:443"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "settings",
    [
        {"api_url": "api.telegram.org"},
        {"api_url": "ftp://api.telegram.org"},
        {"api_url": "https://"},
        {"api_url": "https://host:port"},
        {"api_url": "https://host/{token}"},
        {"api_url": "https://host/?a=1"},
        {"proxy": "gopher://user:secret@host"},
    ],
    ids=str,
)
def test_an_address_that_cannot_work_is_a_config_error(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_session(SessionSettings(**settings))  # type: ignore[arg-type]

    assert str(caught.value).startswith(next(iter(settings)))
    assert "secret" not in str(caught.value)


def test_settings_do_not_show_the_proxys_password() -> None:
    assert "secret" not in repr(SessionSettings(proxy="http://user:secret@host"))


async def failures_of(session: TelegramSession, *, echoed: bool = False) -> str:
    """Everything that somebody could print of calls that fail."""
    seen = []
    for secret in (TOKEN, Secret("1:odd token#")):
        seen.append(repr(await session.call(secret, "sendMessage", {"chat_id": 1})))
        seen.append(repr(await session.ask(secret, "getMe", {}, dict)))
    if not echoed:
        with pytest.raises(AiogramError) as caught:
            await Bot(TOKEN.reveal(), session=session).send_message(42, "hi")
        links = [caught.value.__cause__, caught.value.__context__]
        seen += ["".join(traceback.format_exception(caught.value)), repr(caught.value), repr(links)]
    return "\n".join(seen)


@pytest.mark.parametrize(
    "behave",
    [*(case.values[0] for case in MISBEHAVIOUR), echo],
    ids=[*(str(case.id) for case in MISBEHAVIOUR), "an echo"],
)
def test_no_failure_shows_the_token(behave: Answer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> str:
        async with running(behave, read_timeout_s=0.1, connect_timeout_s=0.1) as (_, session):
            return await failures_of(session, echoed=behave is echo)

    caplog.set_level(logging.DEBUG)
    seen = asyncio.run(scenario(), debug=True) + caplog.text

    assert "Outcome(kind=" in seen
    assert "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1" not in seen
    assert "odd token" not in seen


@pytest.mark.parametrize("host", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "http://callgram.invalid"])
def test_no_failure_to_connect_shows_the_token(host: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> str:
        session = open_session(SessionSettings(api_url=host.format(port=free_port()), connect_timeout_s=0.5))
        try:
            return await failures_of(session)
        finally:
            await session.close()

    caplog.set_level(logging.DEBUG)
    seen = asyncio.run(scenario(), debug=True) + caplog.text

    assert "NOT_SENT" in seen
    assert "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1" not in seen
    assert "odd token" not in seen


def test_importing_the_package_does_not_import_aiogram() -> None:
    program = "import sys, callgram.telegram, callgram.telegram.api; print({'aiogram', 'aiohttp'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"
