"""Ingest: an event is answered 200 once it is stored, and stored together with all that are in flight.

Group commit: while one transaction commits, the next batch gathers; one writer, so no connection waits for another's
fsync. Refusals are :class:`IngestError` with the HTTP status of docs/events.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import datetime

from loguru import logger

from callgram.context import Directory
from callgram.errors import IngestError, StoreError
from callgram.events import Kind, read_wire, text_of, token_of
from callgram.metrics import COMMIT_SECONDS, EVENTS_REPEATED, EVENTS_STORED
from callgram.store import NewEvent, Store

MAX_BODY = 64 * 1024  # bytes
REPEAT_S = 5.0  # a channel that re-enters a bridge repeats its body; later than this it is a new event
KEYED_REPEAT_S = 86_400.0  # the same with an idempotency header (webhook-id, Standard Webhooks)
MAX_BATCH = 512
SAY_EVERY_S = 10.0


class Ingest:
    """Takes request bodies in, many at once."""

    def __init__(
        self,
        store: Store,
        directory: Callable[[], Directory],
        clock: Callable[[], datetime],
        *,
        storing: Callable[[], None] = lambda: None,
        stored: Callable[[], None],
    ) -> None:
        """``storing`` is called when events are about to be stored, ``stored`` when they are."""
        self._store, self._directory, self._clock = store, directory, clock
        self._storing, self._stored = storing, stored
        self._waiting: list[tuple[NewEvent, asyncio.Future[bool]]] = []
        self._gathered = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_refused = 0
        self._said_at = -SAY_EVERY_S
        self._numbers: tuple[str, dict[bytes, str]] = ("-", {})

    async def accept(self, kind: Kind, body: bytes, header_token: str, message_id: str) -> bool:
        """Store one event; False when it repeats one that is stored already.

        Raises:
            IngestError: 400, 403, 422 as docs/events.md says; 503 when the store did not take it.
        """
        wire = read_wire(body)
        number = self._enterprise(token_of(wire) or header_token)
        now = self._clock()
        identity = message_id.encode() if message_id else body
        digest = hashlib.blake2b(b"\0".join((number.encode(), kind.encode(), identity)), digest_size=16).digest()
        event = NewEvent(
            enterprise=number,
            kind=kind,
            unique_id=text_of(wire.unique_id),
            received_at=now,
            digest=digest,
            repeat_s=KEYED_REPEAT_S if message_id else REPEAT_S,
            body=body,
        )
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # a getpid(2) on Python 3.11: a fifth of a request where that is slow
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append((event, answer))
        self._gathered.set()
        return await answer

    def _enterprise(self, token: str) -> str:
        """The number of the enterprise with this Token. Looked up by digest, so that timing tells nothing of a token."""
        directory = self._directory()
        if self._numbers[0] != directory.mark:
            known = {_digest(one.token.reveal()): one.number for one in directory.enterprises.values()}
            self._numbers = (directory.mark, known)
        if not token:
            raise IngestError(403, "no Token in the body or the headers; send the enterprise's Token", field="Token")
        number = self._numbers[1].get(_digest(token))
        if number is None:
            raise IngestError(403, "unknown Token; `callgram enterprise list` shows the enterprises", field="Token")
        return number

    async def run(self) -> None:
        """Write batches until cancelled. What was accepted before is still written: cancel when requests have stopped."""
        while True:
            await self._gathered.wait()
            self._gathered.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write(batch)

    async def _write(self, batch: list[tuple[NewEvent, asyncio.Future[bool]]]) -> None:
        self._storing()
        try:
            with COMMIT_SECONDS.time():
                new = await self._store.append([event for event, _ in batch])
        except StoreError as error:
            self._say_refused(len(batch), error)
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(IngestError(503, "not stored, the database does not answer; send it again"))
            return
        for (event, answer), is_new in zip(batch, new, strict=True):
            if is_new:
                EVENTS_STORED.labels(event.kind).inc()
            else:
                EVENTS_REPEATED.inc()
            if not answer.done():  # the sender may have hung up after 3 s
                answer.set_result(is_new)
        self._stored()


    def _say_refused(self, n_events: int, error: StoreError) -> None:
        """At once, then every ten seconds with the count: under load there are hundreds of batches a second."""
        self._n_refused += n_events
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            logger.error("{} events refused, the store does not take them: {}", self._n_refused, error)
            self._said_at, self._n_refused = now, 0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
