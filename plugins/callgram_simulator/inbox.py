"""Updates waiting for a bot, and who fetches them: one long poll at a time, or a webhook (rules R87-R89)."""

import asyncio
import time
from collections import deque

from msgspec import Struct

from callgram_simulator.errors import ApiError, conflict
from callgram_simulator.wire import Update

MAX_PENDING = 10_000
CONFLICT_PAUSE_S = 3.0


class Webhook(Struct, frozen=True, kw_only=True):
    url: str
    secret: str = ""


class Inbox:
    def __init__(self) -> None:
        self.pending: deque[Update] = deque(maxlen=MAX_PENDING)
        self.webhook: Webhook | None = None
        self.last_update_id = 0
        self.set_webhook_at = float("-inf")
        self._poller: asyncio.Future[None] | None = None
        self._next_conflict_at = float("-inf")
        self._arrival = asyncio.Event()

    def next_update_id(self) -> int:
        self.last_update_id += 1
        return self.last_update_id

    def add(self, update: Update) -> None:
        self.pending.append(update)
        self._arrival.set()
        self.release_poll()

    def release_poll(self) -> None:
        """Let the waiting poll, if any, answer with what there is."""
        if self._poller and not self._poller.done():
            self._poller.set_result(None)

    async def arrival(self) -> None:
        """Wait until an update is pending."""
        while not self.pending:
            self._arrival.clear()
            await self._arrival.wait()

    async def fetch(self, offset: int, limit: int, timeout_s: float) -> list[Update]:
        """Answer pending updates from ``offset`` on, forgetting those before; a newer fetch ends this one with 409."""
        if self.webhook:
            raise conflict(
                "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
            )
        self.end_poll("terminated by other getUpdates request; make sure that only one bot instance is running")
        self._forget_before(offset)
        if not self.pending and timeout_s > 0:
            poller = self._poller = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(poller, timeout_s)
            except TimeoutError:
                pass
            except ApiError:
                await self._pause_between_conflicts()
                raise
            finally:
                if self._poller is poller:
                    self._poller = None
        return [update for update, _ in zip(self.pending, range(limit), strict=False)]

    def end_poll(self, reason: str) -> None:
        """Make the waiting poll, if any, fail with 409."""
        if self._poller and not self._poller.done():
            self._poller.set_exception(conflict(reason))

    def _forget_before(self, offset: int) -> None:
        if offset < 0:
            while len(self.pending) > -offset:
                self.pending.popleft()
        while self.pending and self.pending[0].update_id < offset:
            self.pending.popleft()

    async def _pause_between_conflicts(self) -> None:
        """The first conflict is answered at once; one within 3 s of it waits 3 s (Client.cpp fail_query_conflict)."""
        now = time.monotonic()
        if now >= self._next_conflict_at:
            self._next_conflict_at = now + CONFLICT_PAUSE_S
        else:
            await asyncio.sleep(CONFLICT_PAUSE_S)
