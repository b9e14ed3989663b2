"""How often a bot may write: its budgets, and the gates that Telegram's 429 closes. Kept by the node that sends for it.

Pure: every method is told ``now``, seconds of one monotonic clock. Sends and edits share a chat's budget, deletions
have none (levlam, tdlib/td#3034, telegram-bot-api#648), so do not ask or ``take`` for a deletion. A budget is forgotten
once it is whole again, so memory follows the chats that were written to in the last minute.
"""

from __future__ import annotations

import heapq
from collections import deque
from math import inf
from typing import Annotated, Final

import msgspec
from msgspec import Meta

BOT: Final = 0
"""The chat id that stands for the whole bot. No chat has it."""
EMPTY_FOR_S: Final = 1.0
"""How long a bot waits after a takeover: long enough for one message each second to be right again."""
BOT_WINDOW_S: Final = 1.05
"""A second as Telegram sees it: what left 1 s apart may arrive 50 ms closer, one request having waited longer than another."""
SAME_FLOOD_S: Final = 1.0
"""Refusals of different chats this close together mean the bot, not the chats. A rule of thumb: nobody documents it."""

_SWEPT_AT_ONCE: Final = 2
_REMEMBERED_FLOODS: Final = 8

_Count = Annotated[int, Meta(ge=1)]
_Rate = Annotated[float, Meta(gt=0)]


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast to write. Telegram publishes no exact numbers, these are its FAQ's; 429 has the last word in any case.

    ``private_per_s``: messages a second into one private chat ("avoid more than one message per second", FAQ), after
    ``private_burst`` at once ("short bursts" are tolerated).
    ``group_per_min``: messages in any 60 seconds into one group or channel (FAQ: 20; edits count too). They are paced
    evenly after ``group_burst`` at once, so that one busy minute does not end in half a minute of silence.
    ``bot_per_s``: messages of one bot in any second, all chats together (FAQ: 30 for bulk).
    """

    private_per_s: _Rate = 1.0
    private_burst: _Count = 4
    group_per_min: _Count = 20
    group_burst: _Count = 6
    bot_per_s: _Count = 30


class _Pace(msgspec.Struct):
    """One chat's or bot's budget: a bucket of ``burst`` that regains one each ``every_s``, and at most ``most`` in any
    ``window_s``. ``spent_until`` is when the bucket is full again (GCRA's theoretical arrival time)."""

    every_s: float
    burst: int
    most: int
    window_s: float
    log: deque[float] | None = None
    spent_until: float = -inf
    closed_until: float = -inf

    def ready_at(self) -> float:
        ready = max(self.closed_until, self.spent_until - (self.burst - 1) * self.every_s)
        if self.log is not None and len(self.log) == self.most:
            ready = max(ready, self.log[0] + self.window_s)
        return ready

    def take(self, now: float) -> None:
        if self.every_s:
            self.spent_until = max(now, self.spent_until) + self.every_s
        if self.log is not None:
            self._forget(now)
            self.log.append(now)

    def free(self, now: float) -> int:
        if self.closed_until > now:
            return 0
        self._forget(now)
        return self.most - len(self.log or ())

    def _forget(self, now: float) -> None:
        while self.log and self.log[0] + self.window_s <= now:
            self.log.popleft()

    def full_at(self) -> float:
        """When all of this is as if nothing had ever been written."""
        full = max(self.closed_until, self.spent_until)
        return max(full, self.log[-1] + self.window_s) if self.log else full


class Limits:
    """The budgets of all bots that this node sends for. Nothing here waits: it says when, the caller waits."""

    def __init__(self, settings: LimitSettings | None = None) -> None:
        self._settings = settings or LimitSettings()
        self._paces: dict[tuple[int, int], _Pace] = {}
        """Longest unused first, as ``take`` moves what it uses to the end."""
        self._chats: dict[int, set[int]] = {}
        """The same keys, by bot."""
        self._started: dict[int, float] = {}
        self._waiting: dict[tuple[int, int], float] = {}
        self._soonest: list[tuple[float, tuple[int, int]]] = []
        """A heap of what is or was in ``_waiting``; an entry that says something else than it does is outdated."""
        self._floods: dict[int, deque[tuple[float, int, float]]] = {}

    def __len__(self) -> int:
        """How many budgets are remembered."""
        return len(self._paces)

    def start_bot(self, bot_id: int, now: float, *, empty: bool = True) -> None:
        """Send for ``bot_id`` from now on. ``empty``: another node may have used its budgets up to this moment."""
        self.stop_bot(bot_id)
        if empty:
            self._started[bot_id] = now + EMPTY_FOR_S
            self.close(bot_id, BOT, now + EMPTY_FOR_S, now)

    def stop_bot(self, bot_id: int) -> None:
        """Forget the bot: its lease is another node's."""
        self._started.pop(bot_id, None)
        self._floods.pop(bot_id, None)
        for chat_id in self._chats.pop(bot_id, ()):
            del self._paces[bot_id, chat_id]
            self._waiting.pop((bot_id, chat_id), None)

    def ready_at(self, bot_id: int, chat_id: int, now: float) -> float:
        """The first moment, ``now`` or later, at which the chat may be written to. ``inf``: a person must reopen it."""
        chat = self._paces.get((bot_id, chat_id)) or self._new(bot_id, chat_id)
        bot = self._paces.get((bot_id, BOT))
        return max(now, chat.ready_at(), bot.ready_at() if bot else now)

    def free(self, bot_id: int, now: float) -> int:
        """How many messages the bot may send this moment, all chats together."""
        bot = self._paces.get((bot_id, BOT))
        return bot.free(now) if bot else self._settings.bot_per_s

    def take(self, bot_id: int, chat_id: int, now: float) -> None:
        """A message or an edit goes out now. Counts whether or not it was ready, so ask ``ready_at`` first."""
        for key in ((bot_id, chat_id), (bot_id, BOT)):
            pace = self._remember(*key)
            pace.take(now)
            self._note(key, pace, now)
        self._settle(now)
        self._sweep(now)

    def flood(self, bot_id: int, chat_id: int, retry_after_s: float, now: float, *, jitter_s: float = 0.0) -> float:
        """Telegram said 429: the chat is closed for ``retry_after_s`` and the jitter. Answers for how many seconds the whole
        bot is, too; 0 where it is not.

        The bot is closed only when different chats were refused within a second, and only for the shortest of their
        waits: a chat alone may be punished for minutes, while others go on.
        """
        until = now + retry_after_s + jitter_s
        self.close(bot_id, chat_id, until, now)
        recent = self._floods.setdefault(bot_id, deque(maxlen=_REMEMBERED_FLOODS))
        while recent and recent[0][0] + SAME_FLOOD_S < now:
            recent.popleft()
        recent.append((now, chat_id, until))
        if len({chat for _, chat, _ in recent}) < 2:
            return 0.0
        end = min(end for _, _, end in recent)
        self.close(bot_id, BOT, end, now)
        return end - now

    def close(self, bot_id: int, chat_id: int, until: float, now: float) -> None:
        """Nothing goes to the chat (``BOT``: from the bot) before ``until``. Never shortens an earlier closing."""
        pace = self._remember(bot_id, chat_id)
        pace.closed_until = max(pace.closed_until, until)
        self._note((bot_id, chat_id), pace, now)

    def open(self, bot_id: int, chat_id: int, now: float) -> None:
        """Lift what ``close`` and ``flood`` closed. The budgets stay."""
        key = (bot_id, chat_id)
        if pace := self._paces.get(key):
            pace.closed_until = -inf
            self._note(key, pace, now)

    def blocked(self, now: float) -> list[tuple[int, int]]:
        """Every ``(bot id, chat id)`` that may not be written to now; chat id ``BOT``: nothing of that bot may."""
        self._settle(now)
        self._sweep(now)
        return list(self._waiting)

    def next_ready(self, now: float) -> float | None:
        """When the first of ``blocked`` opens again; ``None`` when none will by itself."""
        self._settle(now)
        while self._soonest and self._waiting.get(self._soonest[0][1]) != self._soonest[0][0]:
            heapq.heappop(self._soonest)
        return self._soonest[0][0] if self._soonest else None

    def _remember(self, bot_id: int, chat_id: int) -> _Pace:
        pace = self._paces.pop((bot_id, chat_id), None)
        if pace is None:
            pace = self._new(bot_id, chat_id)
            self._chats.setdefault(bot_id, set()).add(chat_id)
        self._paces[bot_id, chat_id] = pace
        return pace

    def _new(self, bot_id: int, chat_id: int) -> _Pace:
        settings = self._settings
        if chat_id == BOT:
            return _Pace(0.0, 1, settings.bot_per_s, BOT_WINDOW_S, deque(maxlen=settings.bot_per_s))
        if chat_id > 0:
            pace = _Pace(1.0 / settings.private_per_s, settings.private_burst, 0, 0.0)
        else:
            most = settings.group_per_min
            pace = _Pace(60.0 / most, min(settings.group_burst, most), most, 60.0, deque(maxlen=most))
        started = self._started.get(bot_id)
        if started is not None:
            pace.spent_until = started + (pace.burst - 1) * pace.every_s  # empty: one at the start, then as it refills
        return pace

    def _note(self, key: tuple[int, int], pace: _Pace, now: float) -> None:
        ready = pace.ready_at()
        if ready <= now:
            self._waiting.pop(key, None)
        elif self._waiting.get(key) != ready:
            self._waiting[key] = ready
            if ready < inf:
                heapq.heappush(self._soonest, (ready, key))

    def _settle(self, now: float) -> None:
        while self._soonest and self._soonest[0][0] <= now:
            ready, key = heapq.heappop(self._soonest)
            if self._waiting.get(key) == ready:
                del self._waiting[key]

    def _sweep(self, now: float) -> None:
        """Look at the two unused for longest: as many as ``take`` can add, so the table never outgrows its use."""
        for _ in range(min(_SWEPT_AT_ONCE, len(self._paces))):
            key = next(iter(self._paces))
            pace = self._paces.pop(key)
            if pace.full_at() > now:
                self._paces[key] = pace
                continue
            bot_id, chat_id = key
            self._chats[bot_id].discard(chat_id)
            if not self._chats[bot_id]:
                del self._chats[bot_id]
