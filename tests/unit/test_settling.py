"""Events that are made durable by their plan: answered behind it, never before, and nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from callgram.context import Enterprise, Secret
from callgram.errors import IngestError, StoreError
from callgram.events import Kind
from callgram.ingest import Ingest
from callgram.store import Ahead, NewEvent
from callgram.testing.memory import MemoryStore

NOW = datetime(2025, 9, 14, 9, 5, tzinfo=UTC)
LOST = StoreError("the server is gone")


class Disk(MemoryStore):
    """A store whose disk is held up: ``settle`` ends when the test says how."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def settle(self, ahead: Ahead) -> None:
        await asyncio.shield(self.ends)


class Desk:
    """An ingest whose planner expects every event, while ``expects``. ``stored`` are the events that the planner was told of."""

    def __init__(self, store: Disk) -> None:
        self.store, self.expects = store, True
        self.stored: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        await self.store.put_enterprise(Enterprise(number="0367", token=Secret("t"), bot_token=Secret("7:a")))
        directory = await self.store.directory()
        self._ingest = Ingest(self.store, lambda: directory, lambda: NOW, storing=self._expect, stored=self._tell)
        running = asyncio.create_task(self._ingest.run())
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _expect(self, events: Sequence[NewEvent]) -> Mapping[str, Collection[str]]:
        return {"0367": ["channel:1.1"]} if self.expects else {}

    def _tell(self, events: Sequence[NewEvent], ahead: Ahead | None) -> None:
        self.stored += [event.unique_id for event in events]

    async def post(self, uid: str) -> asyncio.Task[bool]:
        """Post, and let everybody do what they can."""
        answer = asyncio.create_task(self._ingest.accept(Kind.START, msgspec.json.encode({"Token": "t", "UniqueId": uid}), {}))
        for _ in range(20):
            await asyncio.sleep(0)
        return answer


def at(scenario: Any) -> None:
    async def play() -> None:
        async with asyncio.timeout(10), Desk(Disk()).open() as desk:
            await scenario(desk)

    asyncio.run(play())


def test_it_is_answered_when_it_is_durable_and_planned_before() -> None:
    async def scenario(desk: Desk) -> None:
        answer = await desk.post("1.1")
        assert desk.stored == ["1.1"]
        assert not answer.done()
        desk.store.ends.set_result(None)
        assert await answer

    at(scenario)


def test_nobody_waits_for_it() -> None:
    async def scenario(desk: Desk) -> None:
        first = await desk.post("1.1")
        desk.expects = False
        assert await (await desk.post("1.2"))
        assert not first.done()

    at(scenario)


def test_it_is_refused_where_it_did_not_become_durable() -> None:
    async def scenario(desk: Desk) -> None:
        answer = await desk.post("1.1")
        desk.store.ends.set_exception(LOST)
        with pytest.raises(IngestError) as refused:
            await answer
        assert refused.value.status == 503

    at(scenario)


@pytest.mark.parametrize("lost", [False, True])
def test_its_repetition_is_answered_as_it_is_and_not_before(lost: bool) -> None:
    """The repetition writes nothing, so nothing is flushed with it."""

    async def scenario(desk: Desk) -> None:
        first = await desk.post("1.1")
        desk.expects = False
        again = await desk.post("1.1")
        assert not again.done()
        if lost:
            desk.store.ends.set_exception(LOST)
            for answer in (first, again):
                with pytest.raises(IngestError):
                    await answer
        else:
            desk.store.ends.set_result(None)
            assert (await first, await again) == (True, False)

    at(scenario)
