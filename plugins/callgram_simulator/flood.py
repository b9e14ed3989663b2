"""Flood control: short waits are latency, long ones 429 (rules R79-R86). Deletes never come here."""

import asyncio
import math

from msgspec import Struct

from callgram_simulator.chats import Bot, Dialog
from callgram_simulator.clock import Clock
from callgram_simulator.errors import too_many_requests
from callgram_simulator.settings import FloodSettings

_MANY_BUCKETS = 10_000


class _Bucket(Struct):
    """Tokens may go below zero: those are the requests held now, each waiting for its own token."""

    tokens: float
    filled_at: float
    closed_for_s: float = 0.0
    closed_until: float = 0.0

    def wait_s(self, now: float, per_s: float, burst: int) -> float:
        self.tokens = min(self.tokens + (now - self.filled_at) * per_s, burst)
        self.filled_at = now
        return max((1 - self.tokens) / per_s, 0.0)


class Flood:
    def __init__(self, settings: FloodSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._chats: dict[tuple[int, int], _Bucket] = {}
        self._bots: dict[int, _Bucket] = {}
        self._new_tokens_at: list[float] = []

    async def admit(self, dialog: Dialog) -> None:
        """Let one send or edit pass now or within ``held_s``, or raise 429. What is refused takes nothing."""
        settings, now = self.settings, self._clock.now()
        if dialog.chat.kind == "private":
            per_s, burst = settings.private_per_s, settings.private_burst
        else:
            per_s, burst = settings.group_per_minute / 60, settings.group_burst
        chat = self._bucket(dialog, now, burst)
        if now < chat.closed_until:
            refused_s = chat.closed_until - now
            if settings.extend_when_hammered:
                refused_s = max(refused_s, chat.closed_for_s)
                chat.closed_until = now + refused_s
            raise too_many_requests(math.ceil(refused_s))
        whole = self._bots.get(dialog.bot.id)
        if whole is None:
            whole = self._bots[dialog.bot.id] = _Bucket(settings.bot_burst, now)
        wait_s = max(chat.wait_s(now, per_s, burst), whole.wait_s(now, settings.bot_per_s, settings.bot_burst))
        if wait_s > settings.held_s:
            chat.closed_for_s = wait_s
            chat.closed_until = now + wait_s
            raise too_many_requests(math.ceil(wait_s))
        chat.tokens -= 1
        whole.tokens -= 1
        if wait_s > 0:
            await self._hold(dialog, wait_s)

    async def admit_request(self, bot: Bot) -> None:
        """Refuse any request of a bot with too many of them under way (R84)."""
        if bot.n_active > self.settings.active_per_bot:
            await self._refuse_overload()

    def admit_token(self) -> None:
        """Refuse the first use of a token when too many new ones came lately (R85)."""
        now, seen = self._clock.now(), self._new_tokens_at
        seen[:] = [at for at in seen if now - at < 3600]
        for limit, window_s in ((self.settings.new_tokens_per_minute, 60), (self.settings.new_tokens_per_hour, 3600)):
            if len(seen) >= limit and now - seen[-limit] < window_s:
                raise too_many_requests(math.ceil(window_s - (now - seen[-limit])))
        seen.append(now)

    async def _hold(self, dialog: Dialog, wait_s: float) -> None:
        if dialog.n_unsent >= self.settings.unsent_per_chat:
            await self._refuse_overload()
        dialog.n_unsent += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            dialog.n_unsent -= 1

    async def _refuse_overload(self) -> None:
        await asyncio.sleep(self.settings.overload_pause_s)
        raise too_many_requests(60)

    def _bucket(self, dialog: Dialog, now: float, burst: int) -> _Bucket:
        key = (dialog.bot.id, dialog.chat.id)
        bucket = self._chats.get(key)
        if bucket is None:
            if len(self._chats) >= _MANY_BUCKETS:
                idle = [key for key, bucket in self._chats.items() if now - bucket.filled_at > 60]
                for old in idle:
                    del self._chats[old]
            bucket = self._chats[key] = _Bucket(burst, now)
        return bucket
