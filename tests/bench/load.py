"""The load generator: raw HTTP/1.1 over kept-alive connections, requests prebuilt, so that it costs little beside a server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import msgspec

HOST = "127.0.0.1"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """``took_s`` from the first request to the last answer, ``latencies_s`` of the answers 200, sorted."""

    began: float
    took_s: float
    latencies_s: list[float]
    n_refused: int

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.took_s

    def latency_ms(self, share: float) -> float:
        return 1000.0 * self.latencies_s[min(len(self.latencies_s) - 1, int(share * len(self.latencies_s)))]


def request(path: str, body: bytes, *, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One request at a time; ``answered`` is called with the status and the body."""

    def __init__(self) -> None:
        self.transport: Any  # uvloop's is no asyncio.Transport
        self.waiting: asyncio.Future[tuple[bool, bytes]] | None = None
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().find(b"content-length:", 0, head)
        length = int(self._buffer[at + 15 : self._buffer.index(b"\r\n", at)]) if at >= 0 else 0
        if len(self._buffer) < head + 4 + length:
            return
        answer, self._buffer = self._buffer, b""
        self.answered(answer.startswith(b"HTTP/1.1 200"), answer[head + 4 :])

    def connection_lost(self, error: Exception | None) -> None:
        self.answered(False, b"")

    def answered(self, well: bool, body: bytes) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((well, body))

    async def ask(self, data: bytes) -> tuple[bool, bytes]:
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self.waiting


class _Driver(Connection):
    """Sends the next request of all as soon as the last one is answered."""

    def __init__(self, requests: Iterator[bytes], latencies: list[float], refused: list[bytes]) -> None:
        super().__init__()
        self._requests, self._latencies, self._refused = requests, latencies, refused
        self._sent_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next(self) -> None:
        data = next(self._requests, None)
        if data is None:
            self.done.set_result(None)
            return
        self._sent_at = monotonic()
        self.transport.write(data)

    def answered(self, well: bool, body: bytes) -> None:
        if self.done.done():
            return
        if well:
            self._latencies.append(monotonic() - self._sent_at)
        else:
            self._refused.append(body)
            if self.transport.is_closing():
                self.done.set_result(None)
                return
        self.next()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, port)
    return connection


async def drive(port: int, requests: Sequence[bytes], *, connections: int) -> Load:
    """Send all of ``requests``, as fast as they are answered."""
    loop, left = asyncio.get_running_loop(), iter(requests)
    latencies: list[float] = []
    refused: list[bytes] = []
    drivers = []
    for _ in range(connections):
        _, driver = await loop.create_connection(lambda: _Driver(left, latencies, refused), HOST, port)
        drivers.append(driver)
    began = monotonic()
    for driver in drivers:
        driver.next()
    await asyncio.wait([driver.done for driver in drivers])
    took_s = monotonic() - began
    for driver in drivers:
        driver.transport.close()
    return Load(began=began, took_s=took_s, latencies_s=sorted(latencies), n_refused=len(refused))


async def pace(port: int, requests: Sequence[bytes], *, per_s: float) -> list[float]:
    """Send each of ``requests`` in its time, answered or not; answers when each was sent (seconds of ``monotonic``)."""
    idle: deque[Connection] = deque()
    sent_at: list[float] = []
    asking: set[asyncio.Task[None]] = set()

    async def ask(data: bytes) -> None:
        connection = idle.popleft() if idle else await connect(port)
        sent_at.append(monotonic())
        await connection.ask(data)
        idle.append(connection)

    began = monotonic()
    for number, data in enumerate(requests):
        await asyncio.sleep(max(0.0, began + number / per_s - monotonic()))
        asking.add(asyncio.create_task(ask(data)))
    await asyncio.wait(asking)
    for connection in idle:
        connection.transport.close()
    return sent_at
