"""A proxy on the way to Telegram, and a Bot API server of one's own: what CALLGRAM_PROXY and _TELEGRAM_API_URL name is used."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator

import pytest

from ..serve import until
from .harness import Background, Program, Telegram, new_office, plugins_toml

HOST = "telegram.invalid"  # a name that nobody but our proxy knows (RFC 2606)
ACCOUNT = "callgram:proxy-secret-proxy"


class Proxy:
    """An HTTP proxy that takes whole addresses, asks for an account, and knows one host: Telegram's simulator."""

    def __init__(self, telegram: Telegram) -> None:
        self._there = telegram.url.removeprefix("http://").split(":")
        self.served: list[str] = []
        self.refused = 0

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return "http://{}@{}:{}".format(ACCOUNT, *self._server.sockets[0].getsockname())

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")[:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, address, _ = first.split()
            if f"basic {base64.b64encode(ACCOUNT.encode()).decode()}".lower() != headers.get("proxy-authorization"):
                self.refused += 1
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            assert address.startswith(f"http://{HOST}/"), address
            path = address.removeprefix(f"http://{HOST}")
            self.served.append(f"{method} {path.rpartition('/')[2]}")
            writer.write(await self._ask(method, path, headers.get("content-type", ""), body))
        finally:
            writer.close()

    async def _ask(self, method: str, path: str, kind: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._there)
        told = {"Host": HOST, "Content-Type": kind, "Content-Length": len(body), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items() if value != "")
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.fixture
def proxy(telegram: Telegram, background: Background) -> Iterator[tuple[Proxy, str]]:
    made = Proxy(telegram)
    url = background.run(made.start())
    yield made, url
    background.run(made.stop())


def test_messages_reach_a_bot_api_of_ones_own_through_a_proxy(
    proxy: tuple[Proxy, str], make_program: Callable[..., Program], telegram: Telegram
) -> None:
    seen, url = proxy
    office = new_office()
    plugins = plugins_toml("postgres", "start", "dial", "bridge", "hangup", "internal", "tracer")
    program = make_program(plugins, CALLGRAM_PROXY=url, CALLGRAM_TELEGRAM_API_URL=f"http://{HOST}")
    program.secrets.add("proxy-secret-proxy")  # nothing of it may be in the log
    program.start()
    program.add([office])
    program.tell(office, "dial", UniqueId="1757840900.1", Phone="375296254070", CallType=0, Extensions=["150"], Trunk="1")
    until(lambda: all(len(telegram.texts(office.bot, chat)) == 1 for chat in office.chats), "the messages are there")
    program.tell(office, "hangup", UniqueId="1757840900.1", Phone="375296254070", CallType=0, CallStatus="0", Trunk="1")
    program.settled(office)
    for chat in office.chats:
        assert [text.split("\n")[0] for text in telegram.texts(office.bot, chat)] == ["❌Пропущенный входящий звонок"]
    assert set(seen.served) == {"POST sendMessage", "POST deleteMessage"}
    assert len(seen.served) == len(telegram.truth(office.bot)), "nothing went round the proxy"
    assert not seen.refused
    program.stop()
