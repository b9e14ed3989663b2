"""The bell: many rings are one, and what it cannot do the polls do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from callgram.bell import QUIET_S, RETRY_S, Bell
from callgram.errors import StoreError


class Tower:
    """A store whose rings are counted; ``away``: it does not answer."""

    def __init__(self) -> None:
        self.n_rung, self.away = 0, False
        self.pauses: list[float] = []
        self.paused, self.go_on = asyncio.Event(), asyncio.Event()

    async def ring(self) -> None:
        if self.away:
            raise StoreError("away")
        self.n_rung += 1

    async def listen(self, rung: Callable[[], None]) -> None:
        raise StoreError("lost")

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.paused.set()
        await self.go_on.wait()
        self.go_on.clear()

    async def until_paused(self) -> None:
        async with asyncio.timeout(5):
            await self.paused.wait()
        self.paused.clear()


async def _running(part: asyncio.Task[None]) -> None:
    part.cancel()
    with suppress(asyncio.CancelledError):
        await part


def test_many_rings_are_one_and_one_more_behind_a_pause() -> None:
    async def scenario() -> None:
        tower = Tower()
        bell = Bell(tower, tower.pause)
        part = asyncio.create_task(bell.run())
        for _ in range(3):
            bell.ring()
        await tower.until_paused()
        assert (tower.n_rung, tower.pauses) == (1, [QUIET_S])
        bell.ring()
        bell.ring()
        tower.go_on.set()
        await tower.until_paused()
        assert tower.n_rung == 2
        await _running(part)

    asyncio.run(scenario())


def test_a_store_that_is_away_is_rung_again_when_there_is_something_new() -> None:
    async def scenario() -> None:
        tower = Tower()
        tower.away = True
        bell = Bell(tower, tower.pause)
        part = asyncio.create_task(bell.run())
        bell.ring()
        await tower.until_paused()
        tower.away = False
        bell.ring()
        tower.go_on.set()
        await tower.until_paused()
        assert tower.n_rung == 1
        await _running(part)

    asyncio.run(scenario())


def test_who_lost_the_connection_looks_for_himself_and_listens_again() -> None:
    async def scenario() -> None:
        tower, heard = Tower(), asyncio.Event()
        part = asyncio.create_task(Bell(tower, tower.pause).listen(heard.set))
        for _ in range(2):
            await tower.until_paused()
            tower.go_on.set()
            async with asyncio.timeout(5):
                await heard.wait()
            heard.clear()
        assert set(tower.pauses) == {RETRY_S}
        await _running(part)

    asyncio.run(scenario())
