"""The bell: a process tells the others on its store that something waits for them, so that nobody waits for his poll.

It may be lost, and then the poll finds the same; it is never rung inside a transaction that anybody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from loguru import logger

from callgram.errors import StoreError

QUIET_S = 0.02  # behind a ring: a NOTIFY serialises the commits of its cluster (design/architecture.md, Ingest)
RETRY_S = 1.0


class Rings(Protocol):
    """What a store does for the bell."""

    async def ring(self) -> None:
        """Call ``rung`` of every other process that listens."""
        ...

    async def listen(self, rung: Callable[[], None]) -> None:
        """Until cancelled. Raises StoreError when the connection is lost."""
        ...


class Bell:
    """Rings once for any number of :meth:`ring` within ``QUIET_S``."""

    def __init__(self, rings: Rings, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._rings, self._pause = rings, pause
        self._wanted = asyncio.Event()

    def ring(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._rings.ring()
            except StoreError as error:
                logger.debug("the bell is not rung: {}", error)
            await self._pause(QUIET_S)

    async def listen(self, rung: Callable[[], None]) -> None:
        """Call ``rung`` whenever another process rings, and after each loss of the connection."""
        while True:
            try:
                await self._rings.listen(rung)
            except StoreError as error:
                logger.debug("nothing is heard: {}", error)
            await self._pause(RETRY_S)
            rung()
