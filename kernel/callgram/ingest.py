"""Ingest: an event is answered 200 once it is stored, and stored together with all that are in flight.

Group commit: while one transaction commits, the next batch gathers; one writer, so no connection waits for another's
fsync. Who may send is callgram.senders. Refusals are :class:`IngestError` with the HTTP status of docs/events.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from loguru import logger

from callgram.context import Directory
from callgram.errors import IngestError, StoreError
from callgram.events import Kind, read_wire, text_of, token_of
from callgram.metrics import COMMIT_SECONDS, EVENTS_REPEATED, EVENTS_STORED
from callgram.senders import Senders
from callgram.signatures import HEADERS as SIGNING
from callgram.signatures import ID, SIGNATURE, check
from callgram.store import Ahead, NewEvent, Store

HEADERS = SIGNING | {b"token"}  # what an event may carry beside its body
MAX_BODY = 64 * 1024  # bytes
REPEAT_S = 5.0  # a channel that re-enters a bridge repeats its body; later than this it is a new event
KEYED_REPEAT_S = 86_400.0  # the same with an idempotency header (webhook-id, Standard Webhooks)
MAX_BATCH = 512
MAX_REPEATS = 10_000  # repetitions that wait to be counted; a host that posts a whole day again is not counted to the last
SAY_EVERY_S = 10.0


Waiting = list[tuple[NewEvent, asyncio.Future[bool]]]


class Ingest:
    """Takes request bodies in, many at once."""

    def __init__(
        self,
        store: Store,
        directory: Callable[[], Directory],
        clock: Callable[[], datetime],
        *,
        storing: Callable[[Sequence[NewEvent]], Mapping[str, Collection[str]]] = lambda events: {},
        stored: Callable[[Sequence[NewEvent], Ahead | None], None],
    ) -> None:
        """``storing`` is told which events are about to be stored and answers what is ``expected`` of them (callgram.store),
        ``stored`` is told when they are, with those that repeat others, and what came of ``expected``."""
        self._store, self._clock = store, clock
        self.senders = Senders(store, directory)
        self._storing, self._stored = storing, stored
        self._waiting: Waiting = []
        self._unsettled: set[asyncio.Task[bool]] = set()
        self._gathered = asyncio.Event()
        self._repeats: list[NewEvent] = []
        self._repeated = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_refused = 0
        self._said_at = -SAY_EVERY_S

    async def accept(self, kind: Kind, body: bytes, headers: Mapping[bytes, bytes], address: str = "") -> bool:
        """Store one event; False when it repeats one that is stored already. ``headers``: those of HEADERS that came with it,
        each once, its name in lower case. ``address``: where it came from.

        Raises:
            IngestError: 400, 403, 422, 429 as docs/events.md says; 503 when the store did not take it.
        """
        wire = read_wire(body)
        sender = self.senders.find(token_of(wire) or headers.get(b"token", b"").decode("latin-1").strip(), address)
        now = self._clock()
        message_id, route = headers.get(ID, b"").strip(), kind.encode()
        if sender.require_signature or (sender.keys and SIGNATURE in headers):
            check(sender.keys, headers, body, now)
            route = b""  # it is not signed: whoever replays an event on another route repeats it all the same
        parts = b"\0".join((sender.identity, route, message_id or body))
        digest = hashlib.blake2b(parts, digest_size=16).digest()
        event = NewEvent(
            enterprise=sender.number,
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

    async def run(self) -> None:
        """Write batches until cancelled. What was accepted before is still written: cancel when requests have stopped."""
        async with asyncio.TaskGroup() as settling:
            while True:
                await self._gathered.wait()
                self._gathered.clear()
                while self._waiting:
                    batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                    await self._write(batch, settling)

    async def count_repeats(self) -> None:
        """Have repetitions counted at the events that they repeat, until cancelled. Beside the writing, which never waits for it;
        what is not counted when the process ends never is."""
        while True:
            await self._repeated.wait()
            self._repeated.clear()
            repeats, self._repeats = self._repeats, []
            try:
                await self._store.count_repeats(repeats)
            except StoreError as error:
                logger.warning("{} repetitions are not counted: {}", len(repeats), error)

    def _note_repeat(self, event: NewEvent) -> None:
        if len(self._repeats) < MAX_REPEATS:
            self._repeats.append(event)
            self._repeated.set()

    async def _write(self, batch: Waiting, settling: asyncio.TaskGroup) -> None:
        events, began = [event for event, _ in batch], time.perf_counter()
        expected = self._storing(events)
        try:
            new, ahead = await self._store.append(events, expected)
            if not all(new) and not all(await asyncio.gather(*self._unsettled)):
                raise StoreError("what was repeated is not stored")
        except StoreError as error:
            self._refuse(batch, error)
            return
        self._stored(events, ahead)
        if ahead is None:
            self._answer(batch, new, began)
        else:
            task = settling.create_task(self._settle(batch, new, ahead, began))
            self._unsettled.add(task)
            task.add_done_callback(self._unsettled.discard)

    async def _settle(self, batch: Waiting, new: Sequence[bool], ahead: Ahead, began: float) -> bool:
        """Answer when the events are durable, and whether they are. The next batch is written meanwhile."""
        try:
            await self._store.settle(ahead)
        except StoreError as error:
            self._refuse(batch, error)
            return False
        self._answer(batch, new, began)
        return True

    def _answer(self, batch: Waiting, new: Sequence[bool], began: float) -> None:
        COMMIT_SECONDS.observe(time.perf_counter() - began)
        for (event, answer), is_new in zip(batch, new, strict=True):
            if is_new:
                EVENTS_STORED.labels(event.kind).inc()
            else:
                EVENTS_REPEATED.inc()
                self._note_repeat(event)
            if not answer.done():  # the sender may have hung up after 3 s
                answer.set_result(is_new)

    def _refuse(self, batch: Waiting, error: StoreError) -> None:
        self._say_refused(len(batch), error)
        for _, answer in batch:
            if not answer.done():
                answer.set_exception(IngestError(503, "not stored, the database does not answer; send it again"))

    def _say_refused(self, n_events: int, error: StoreError) -> None:
        """At once, then every ten seconds with the count: under load there are hundreds of batches a second."""
        self._n_refused += n_events
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            logger.error("{} events refused, the store does not take them: {}", self._n_refused, error)
            self._said_at, self._n_refused = now, 0
