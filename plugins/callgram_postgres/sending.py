"""The sender's half of the store: leases of bots, claims of cards, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from callgram.cards import Shown
from callgram.errors import StoreError
from callgram.shards import part_of
from callgram.store import ChatLimit, Claim, Progress, ids_told, unknown_sends
from callgram.trace import Op
from callgram_postgres.house import House
from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import (
    ACTION_WIDTH,
    action_row,
    columns,
    read_card,
    read_facts,
    read_shown,
    shown_text,
    write_json,
)

SQL = queries("sending")
_read_facts = lru_cache(512)(read_facts)  # the cards of one call are mostly claimed one after another
LOCK_DIRECTORY = queries("admin")["lock_directory"]
SUPERGROUPS = -1_000_000_000_000  # ids of supergroups and channels are below (Bot API, dialog ids)
COUNTED = timedelta(hours=1)
TRIES = 3  # survivors that are absorbed themselves meanwhile


class Sending(House):
    """A part of PostgresStore. Remembers the fences that this process was given, and so knows its own leases."""

    def __init__(self, pools: Pools) -> None:
        super().__init__(pools)
        self._fences: dict[tuple[str, int], int] = {}

    async def hold_leases(self, node: str, bots: Iterable[int], *, ttl_s: float) -> Mapping[int, int]:
        wanted = sorted(set(bots))
        held = [self._fences.get((node, bot), 0) for bot in wanted]
        rows = await self._pools.rows("send", SQL["hold_leases"], node, wanted, held, ttl_s) if wanted else []
        fences: dict[int, int] = {row["bot_id"]: row["fence"] for row in rows}
        self._drop_fences(node)
        self._fences |= {(node, bot): fence for bot, fence in fences.items()}
        return fences

    async def release_leases(self, node: str) -> None:
        self._drop_fences(node)
        await self._pools.rows("send", SQL["release_leases"], node)

    async def leased(self, bots: Iterable[int]) -> frozenset[int]:
        return frozenset(row["bot_id"] for row in await self._pools.rows("send", SQL["leased"], list(bots)))

    def _drop_fences(self, node: str) -> None:
        self._fences = {key: fence for key, fence in self._fences.items() if key[0] != node}

    async def exchange(
        self,
        progress: Sequence[Progress],
        *,
        leases: Mapping[int, int],
        busy: Sequence[tuple[int, int]],
        limit: int,
        now: datetime,
        per_chat: int = 1,
        at_most: Mapping[int, int] | None = None,
    ) -> list[Claim]:
        free = [min(limit, (at_most or {}).get(bot, limit)) for bot in leases]
        wanted = [list(leases), list(leases.values()), *columns(busy, 2), now, limit, per_chat, free]
        await self.make_days(action.at for report in progress for action in report.actions)
        async with self._pools.take("send") as connection:
            if progress:
                with translated():
                    await _report(connection, progress, now)
            try:
                with translated():
                    return await _claim(connection, wanted)
            except StoreError:
                if not progress:
                    raise
                return []  # what is reported must not be handed in again; the next turn will tell

    async def next_due(self, bots: Iterable[int]) -> datetime | None:
        moment: datetime | None = await self._pools.value("send", SQL["next_due"], list(bots))
        return moment

    async def sent_ids(self, bot_id: int, chat_id: int, around: datetime) -> list[tuple[int, datetime]]:
        common = chat_id > SUPERGROUPS
        span = (around - COUNTED, around + COUNTED)
        rows = await self._pools.rows("send", SQL["sent_ids"], bot_id, chat_id, common, *span)
        return [(row["message_id"], row["at"]) for row in rows]

    async def move_chat(self, bot_id: int, old: int, new: int) -> None:
        async with self._pools.take("rest") as connection:
            with translated():
                async with connection.transaction():
                    await connection.execute(LOCK_DIRECTORY)
                    await connection.execute(SQL["move_subscriber"], bot_id, old, new)
                    await connection.execute(SQL["move_cards"], bot_id, old, new)

    async def limit_chat(self, limit: ChatLimit) -> bool:
        about = (limit.bot_id, limit.chat_id, limit.until, limit.reason)
        return bool(await self._pools.value("send", SQL["limit_chat"], *about))

    async def lift_limit(self, bot_id: int, chat_id: int) -> bool:
        return bool(await self._pools.value("send", SQL["lift_limit"], bot_id, chat_id))

    async def limits(self) -> list[ChatLimit]:
        rows = await self._pools.rows("send", SQL["limits"])
        return [
            ChatLimit(bot_id=row["bot_id"], chat_id=row["chat_id"], until=row["until"], reason=row["reason"])
            for row in rows
        ]


async def _claim(connection: Any, wanted: list[Any]) -> list[Claim]:
    """One statement, which flushes only if it took something."""
    if not any(free > 0 for free in wanted[-1]):
        return []
    rows = await connection.fetch(SQL["claim_cards"], *wanted)
    rows = sorted(rows, key=lambda row: (row["urgency"], row["due_at"]))
    return [await _read_claim(connection, row) for row in rows if row["facts"] is not None]  # None: forgotten just now


async def _read_claim(connection: Any, row: Any) -> Claim:
    """With facts that are at least as new as the card: the planner may have come between the one and the other."""
    card, facts = read_card(row["enterprise"], row), _read_facts(row["facts"])
    if facts.version < card.version:
        facts = read_facts(await connection.fetchval(SQL["facts_of"], row["part"], card.enterprise, card.call_id))
    return Claim(card=card, facts=facts, ambiguous=row["ambiguous"])


async def _report(connection: Any, progress: Sequence[Progress], now: datetime) -> None:
    """One statement for all cards in hand, locked in the order in which everybody locks cards. The rest one by one."""
    newest: dict[tuple[str, int, int], Progress] = {}
    for report in progress:
        key = (report.enterprise, report.call_id, report.chat_id)
        earlier = newest[key].actions if key in newest else ()
        newest[key] = msgspec.structs.replace(report, actions=earlier + report.actions)
    rows = [
        (
            part_of(report.enterprise),
            report.enterprise,
            report.call_id,
            report.chat_id,
            report.fence,
            report.version,
            shown_text(report.shown),
            report.released,
            report.retry_at,
            report.attempts,
            write_json(sorted(ids_told(report))).decode(),
        )
        for report in newest.values()
    ]
    told = [action_row(action) for report in progress for action in report.actions]
    written = await connection.fetch(SQL["report"], *columns(rows, 11), *columns(told, ACTION_WIDTH))
    for key in newest.keys() - {(row["enterprise"], row["call_id"], row["chat_id"]) for row in written}:
        async with connection.transaction():
            await _report_late(connection, newest[key], now)


async def _report_late(connection: Any, report: Progress, now: datetime) -> None:
    """The card is not in hand with that fence. What was sent for it is there all the same, and somebody else's to see to."""
    place = (part_of(report.enterprise), report.enterprise)
    row = None
    if unknown_sends(report, ()):
        where = (report.call_id, report.chat_id, report.bot_id, report.fence)
        row = await connection.fetchrow(SQL["late_card"], *place, *where)
    if row is None:
        await _report_to_survivor(connection, report, now)
        return
    await _gain(connection, report, row, now)


async def _gain(connection: Any, report: Progress, row: Any, now: datetime) -> None:
    late = unknown_sends(report, read_shown(row["shown"]))
    if late:
        place = (part_of(report.enterprise), report.enterprise, row["call_id"], report.chat_id)
        await connection.execute(SQL["gain"], *place, shown_text(late), now)


async def _report_to_survivor(connection: Any, report: Progress, now: datetime) -> None:
    """If the card's call was absorbed meanwhile, the survivor's card has it all."""
    place = (part_of(report.enterprise), report.enterprise)
    row = None
    for _ in range(TRIES):  # a survivor that is absorbed itself while we wait for its card is gone then: look again
        row = row or await connection.fetchrow(
            SQL["survivor_card"], *place, report.call_id, report.chat_id, report.bot_id
        )
    if row is None:
        return
    if (row["claimed_fence"] or 0) > report.fence:
        await _gain(connection, report, row, now)
        return
    shown = reported(read_shown(row["shown"]), report)
    ours = row["claimed_fence"] == report.fence
    await connection.execute(
        SQL["report_to_survivor"],
        *place,
        row["call_id"],
        report.chat_id,
        shown_text(shown),
        ours and report.released,
        now,
    )


def reported(visible: tuple[Shown, ...], report: Progress) -> tuple[Shown, ...]:
    """What is visible on the survivor's card once ``report``, about a card that it absorbed, is taken into account."""
    deleted = {action.message_id for action in report.actions if action.op is Op.DELETE and action.executed}
    known = [shown for shown in (*visible, *report.shown) if shown.message_id not in deleted]
    # The id is 0 where a message was sent, but the answer was lost.
    newest = {shown.message_id or (shown.stage, shown.sent_at): shown for shown in known}
    return tuple(newest.values())
