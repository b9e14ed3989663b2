"""A Bot API that costs nothing: answers every call with a message of the next id, and remembers when each call came.

``python -m tests.bench.fake_api PORT``. The benchmark asks it by GET: ``/answered/N`` is answered once N calls have been
since ``/forget``, with the moment of the last; ``/calls`` lists ``[moment, body]``. Moments are ``time.monotonic``, which
all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
from time import monotonic
from typing import Any

import msgspec
import uvloop
from tests.bench.load import HOST

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_MESSAGE = (
    b'{"ok":true,"result":{"message_id":%d,"date":1757840000,"chat":{"id":1,"type":"private","first_name":"A"},'
    b'"from":{"id":1,"is_bot":true,"first_name":"B"},"text":"."}}'
)


class Calls:
    """What came since the last ``forget``."""

    def __init__(self) -> None:
        self.last_id = 0
        self.seen: list[tuple[float, bytes]] = []
        self._watched: list[tuple[int, Any]] = []

    def take(self, body: bytes) -> bytes:
        self.last_id += 1
        self.seen.append((monotonic(), body))
        message = _MESSAGE % self.last_id
        return _HEAD % len(message) + message

    def control(self, path: bytes, transport: Any) -> None:
        what, _, argument = path[1:].partition(b"/")
        if what == b"answered":
            self._watched.append((int(argument), transport))
            self.tell()
            return
        if what == b"forget":
            self.seen = []
        calls = [(at, body.decode()) for at, body in self.seen] if what == b"calls" else []
        body = msgspec.json.encode(calls)
        transport.write(_HEAD % len(body) + body)

    def tell(self) -> None:
        for watched in self._watched.copy():
            wanted, transport = watched
            if len(self.seen) >= wanted:
                self._watched.remove(watched)
                body = msgspec.json.encode(self.seen[wanted - 1][0] if wanted else 0.0)
                transport.write(_HEAD % len(body) + body)


class _Server(asyncio.Protocol):
    def __init__(self, calls: Calls) -> None:
        self._calls, self._buffer = calls, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head := self._buffer.find(b"\r\n\r\n")) >= 0:
            lowered = self._buffer[:head].lower()
            at = lowered.find(b"content-length:")
            length = int(lowered[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
            end = head + 4 + length
            if len(self._buffer) < end:
                return
            method, path = self._buffer.split(b" ", 2)[:2]
            body, self._buffer = self._buffer[head + 4 : end], self._buffer[end:]
            if method == b"GET":
                self._calls.control(path, self._transport)
            else:
                self._transport.write(self._calls.take(body))
                self._calls.tell()


async def main(port: int) -> None:
    calls = Calls()
    server = await asyncio.get_running_loop().create_server(lambda: _Server(calls), HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
