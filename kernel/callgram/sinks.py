"""The sink runner: hands the trace to each plugin that observes it, from that plugin's own durable place.

Reads the store's trace and cursors, writes cursors. Each sink is a task of its own: one that fails or lags holds up
nobody. A record is delivered at least once and in order; one that is not taken is offered again, later and later, and
never skipped. Where somebody moves a sink in the store (``callgram sinks rewind``), it goes on from there. Which hook is
called, and containing what it raises, is the matter of ``deliver`` (the dispatcher).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import msgspec
from loguru import logger

from callgram.errors import StoreError
from callgram.events import Event
from callgram.trace import Record


class TraceStore(Protocol):
    """What of :class:`callgram.store.Store` is used here."""

    async def cursor(self, sink: str) -> str: ...

    async def save_cursor(self, sink: str, cursor: str, *, held: str | None = None) -> bool: ...

    async def trace(self, after: str, *, limit: int) -> list[Record]: ...

    async def waiting_since(self, after: str) -> datetime | None: ...


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how much. ``poll_s``: how soon a commit of another node is seen. ``gather_s``: how long commits are
    gathered after a wake, so that a busy process does not ask the store once a commit. ``batch``: records at a time;
    after a crash, at most so many are delivered twice."""

    poll_s: float = 0.5
    gather_s: float = 0.05
    batch: int = 500
    first_retry_s: float = 0.5
    last_retry_s: float = 30.0

    def retry_s(self, n_failures: int, jitter: float) -> float:
        """The wait after failure number ``n_failures`` in a row. It doubles; ``jitter`` 1 is all of it, 0 half."""
        step = min(self.last_retry_s, self.first_retry_s * 2.0 ** min(n_failures - 1, 30))
        return step * (0.5 + jitter / 2)


class SinkState(msgspec.Struct, frozen=True, kw_only=True):
    """A sink as metrics show it. ``n_failures`` counts those in a row, 0 when it goes on; ``n_failed`` counts all."""

    lag_s: float
    n_delivered: int
    n_failed: int
    n_failures: int


class _Sink(msgspec.Struct, kw_only=True):
    """``done`` is delivered, ``saved`` is durable; they differ while a batch runs or the store is away.

    ``behind_since`` is the time of the oldest record that is known to wait.
    """

    name: str
    nudge: asyncio.Event
    done: str | None = None
    saved: str | None = None
    behind_since: datetime | None = None
    n_delivered: int = 0
    n_failed: int = 0
    n_failures: int = 0
    n_store_failures: int = 0


class SinkRunner:
    """Serves ``sinks`` (plugin names) until stopped.

    ``deliver(plugin, record)`` answers True when the record is done with (a plugin that does not take this kind of
    record, or is off for the enterprise, is done with it) and False when it failed. It is expected to have a deadline
    and not to raise. ``random`` answers 0–1. Exactly one runner may serve a sink of one store at a time.
    """

    def __init__(
        self,
        store: TraceStore,
        sinks: Iterable[str],
        deliver: Callable[[str, Record], Awaitable[bool]],
        *,
        now: Callable[[], datetime],
        random: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._now = now
        self._random = random
        self._pace = pace or Pace()
        self._sinks = {name: _Sink(name=name, nudge=asyncio.Event()) for name in sinks}
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Serve until :meth:`stop`. What the store or ``deliver`` raise other than StoreError is a bug, and raised."""
        self._ended.clear()
        try:
            async with asyncio.TaskGroup() as group:
                for sink in self._sinks.values():
                    group.create_task(self._serve(sink), name=f"sink {sink.name}")
        finally:
            for sink in self._sinks.values():
                sink.behind_since = None  # another node's to know from now on
            self._ended.set()

    async def stop(self) -> None:
        """Let each sink finish the record in its hand and save its place; returns when :meth:`run` has ended."""
        self._stopping.set()
        self.wake()
        await self._ended.wait()

    def wake(self) -> None:
        """Something was committed in this process. Cheap, and any number of times; without it the poll finds it."""
        for sink in self._sinks.values():
            sink.nudge.set()

    def lag(self) -> dict[str, float]:
        """``{sink: seconds}`` since the oldest record that it has not taken, also while a transaction that still runs holds it
        back; 0 when its last look found nothing new."""
        return {name: state.lag_s for name, state in self.states().items()}

    def states(self) -> dict[str, SinkState]:
        now = self._now()
        return {
            sink.name: SinkState(
                lag_s=max(0.0, (now - sink.behind_since).total_seconds()) if sink.behind_since else 0.0,
                n_delivered=sink.n_delivered,
                n_failed=sink.n_failed,
                n_failures=sink.n_failures,
            )
            for sink in self._sinks.values()
        }

    async def _serve(self, sink: _Sink) -> None:
        while not self._stopping.is_set():
            sink.nudge.clear()  # before the read: a commit during it is seen the next time
            try:
                more = await self._batch(sink)
            except StoreError as error:
                await self._wait_for_store(sink, error)
                continue
            sink.n_store_failures = 0
            if sink.n_failures:
                await self._back_off(sink)
            elif not more and await _happens(sink.nudge, self._pace.poll_s):
                await _happens(self._stopping, self._pace.gather_s)
        try:
            await self._save(sink)
        except StoreError as error:
            logger.warning("sink {}: its place could not be saved, some records will come twice: {}", sink.name, error)

    async def _batch(self, sink: _Sink) -> bool:
        """Read, deliver and save once. True when more is likely to wait."""
        await self._save(sink)  # left over by a StoreError; first, so that at most one batch comes twice
        after = await self._place(sink)
        records = await self._store.trace(after, limit=self._pace.batch)
        for record in records:
            if self._stopping.is_set():
                break
            sink.behind_since = _time_of(record)
            if not await self._offer(sink, record):
                break
        else:
            if len(records) < self._pace.batch:
                sink.behind_since = await self._store.waiting_since(sink.done or "")
                sink.n_failures = 0  # also when the record that was refused is past the retention
        await self._save(sink)
        return len(records) == self._pace.batch

    async def _place(self, sink: _Sink) -> str:
        """Where to go on: where we are, unless somebody moved the sink."""
        place = await self._store.cursor(sink.name)
        if sink.saved is not None and place not in {sink.saved, sink.done}:  # done: saved, but nobody heard of it
            logger.info("sink {} was moved from {!r} to {!r}, and goes on there", sink.name, sink.saved, place)
            sink.n_failures = 0
        sink.done = sink.saved = place
        return place

    async def _offer(self, sink: _Sink, record: Record) -> bool:
        if not await self._deliver(sink.name, record):
            sink.n_failed += 1
            sink.n_failures += 1
            return False
        if sink.n_failures:
            logger.info("sink {} goes on after {} failures", sink.name, sink.n_failures)
        sink.n_failures = 0
        sink.n_delivered += 1
        sink.done = record.cursor
        return True

    async def _save(self, sink: _Sink) -> None:
        """Nothing is saved over a place that somebody moved the sink to; the next batch begins there."""
        if (
            sink.done is not None
            and sink.done != sink.saved
            and await self._store.save_cursor(sink.name, sink.done, held=sink.saved)
        ):
            sink.saved = sink.done

    async def _back_off(self, sink: _Sink) -> None:
        wait_s = self._pace.retry_s(sink.n_failures, self._random())
        logger.error(
            "sink {} does not take the record behind {!r}: {} failures in a row, next try in {:.1f} s; it stays there "
            "until the plugin takes it",
            sink.name,
            sink.done,
            sink.n_failures,
            wait_s,
        )
        await _happens(self._stopping, wait_s)

    async def _wait_for_store(self, sink: _Sink, error: StoreError) -> None:
        sink.n_store_failures += 1
        wait_s = self._pace.retry_s(sink.n_store_failures, self._random())
        logger.warning("sink {} waits {:.1f} s for the store: {}", sink.name, wait_s, error)
        await _happens(self._stopping, wait_s)


def _time_of(record: Record) -> datetime:
    return record.item.received_at if isinstance(record.item, Event) else record.item.at


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()
