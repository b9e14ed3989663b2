"""Live changes for whoever watches the chats. A watcher that falls behind is told to look again from the start."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_UNREAD = 2_000
LOOK_AGAIN: dict[str, Any] = {"type": "reset"}


class Feed:
    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[dict[str, Any] | None]] = set()

    @property
    def is_watched(self) -> bool:
        return bool(self._queues)

    def publish(self, event: dict[str, Any]) -> None:
        for queue in self._queues:
            if queue.qsize() >= MAX_UNREAD:
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(LOOK_AGAIN)
            queue.put_nowait(event)

    def close(self) -> None:
        """End every watcher's stream."""
        for queue in self._queues:
            queue.put_nowait(None)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[dict[str, Any] | None]]:
        """Yield a queue of the changes from now on; ``None`` in it ends the stream."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)
