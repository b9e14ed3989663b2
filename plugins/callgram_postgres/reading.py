"""The reading half of the store: one call with all that is kept about it, lists of calls, and what plugins keep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from callgram.reading import EPOCH, SEARCHED, CallFile, CallFilter, CallPage, Listed, read_page_key, write_page_key
from callgram.shards import part_of
from callgram_postgres.house import House
from callgram_postgres.queries import queries
from callgram_postgres.rows import read_card, read_facts, read_record, storable, write_cursor

SQL = queries("reading")
CARDS = queries("planning")["cards_of"]
LAST = (datetime(9000, 1, 1, tzinfo=UTC), 2**62)
FEW_DIGITS = 4  # calls of so long a number are few; of a shorter one they may be a tenth of all
FEW_ENTERPRISES = 20
PATIENCE_S = 0.0006  # for each row of a page: a filter that finds little stops then, and the next page goes on
SLACK = timedelta(minutes=5)  # a record may bear a time a little before its call's first event


class Reading(House):
    """A part of PostgresStore. Reads on the connections that no event and no message waits for."""

    async def find_calls(self, enterprises: Sequence[str], channel: str) -> list[tuple[str, int]]:
        parts = [part_of(enterprise) for enterprise in enterprises]
        rows = await self._pools.rows(
            "read", SQL["find_by_channel"], parts, list(enterprises), f"channel:{storable(channel)}"
        )
        return [(row["enterprise"], row["call_id"]) for row in rows]

    async def call_file(self, enterprise: str, call_id: int, *, limit: int = 10_000) -> CallFile | None:
        place = (part_of(enterprise), enterprise)
        found = await self._pools.rows("read", SQL["call"], *place, call_id)
        if not found:
            return None
        number, facts = found[0]["id"], read_facts(found[0]["facts"])
        absorbed, channels = tuple(found[0]["absorbed"]), tuple(found[0]["channels"])
        since = facts.first_at - SLACK
        rows = await self._pools.rows(
            "read", SQL["file"], *place, [number, *absorbed], list(channels), since, limit + 1
        )
        cards = await self._pools.rows("read", CARDS, *([one] for one in place), [number])
        return CallFile(
            facts=facts,
            records=tuple(read_record(row) for row in rows[:limit]),
            cards=tuple(read_card(enterprise, row) for row in cards),
            channels=channels,
            failed={row["id"]: row["failed"] for row in rows if row["failed"]},
            repeats={row["id"]: row["repeats"] for row in rows if row["repeats"]},
            absorbed=absorbed,
            cut=len(rows) > limit,
        )

    async def list_calls(self, wanted: CallFilter, *, after: str = "", limit: int = 50) -> CallPage:
        """Looks at a few candidates first, then at more, until the page is full or took long enough."""
        before = LAST if wanted.until is None else (wanted.until, -1)
        if after:
            micros, number = read_page_key(after)
            before = min(before, (EPOCH + timedelta(microseconds=micros), number))
        sql = f"WITH candidates AS MATERIALIZED ({SQL[_candidates(wanted)]}) {SQL['matching']}"
        given, began, found = _arguments(wanted), time.monotonic(), list[Any]()
        n_searched, n_next = 0, 2 * (limit + 1)  # absorbed calls are among the candidates
        most, patience_s = SEARCHED * limit, PATIENCE_S * limit
        while True:
            more = limit + 1 - len(found)
            rows = await self._pools.rows("read", sql, *before, wanted.since or EPOCH, n_next, *given, more)
            found += [row for row in rows if row["id"] is not None]
            n_searched += n_next
            if len(found) > limit:
                last = found[limit - 1]
                return _page(found[:limit], (last["started_at"], last["id"]))
            if rows[0]["n_searched"] < n_next:
                return _page(found, None)
            before = (rows[0]["oldest_at"], rows[0]["oldest_id"])
            if n_searched >= most or time.monotonic() - began > patience_s:
                return _page(found, before)
            n_next = min(2 * n_next, 10 * limit, most - n_searched)

    async def live_calls(self, enterprises: tuple[str, ...] | None, *, limit: int = 50) -> list[Listed]:
        chosen = None if enterprises is None else list(enterprises)
        return [_listed(row) for row in await self._pools.rows("read", SQL["live"], chosen, limit)]

    async def cursors(self) -> dict[str, str]:
        return {row["sink"]: row["cursor"] for row in await self._pools.rows("read", SQL["cursors"])}

    async def cursor_at(self, moment: datetime) -> str:
        (row,) = await self._pools.rows("read", SQL["first_since"], moment)
        return write_cursor(int(row["xid"]), row["id"] - 1)

    async def kept(self, plugin: str) -> dict[str, bytes]:
        return {row["key"]: bytes(row["value"]) for row in await self._pools.rows("read", SQL["kept"], plugin)}

    async def keep(self, plugin: str, key: str, value: bytes | None) -> None:
        if value is None:
            await self._pools.rows("read", SQL["forget"], plugin, key)
        else:
            await self._pools.rows("read", SQL["keep"], plugin, key, value)

    async def keep_first(self, plugin: str, key: str, value: bytes) -> bytes:
        await self._pools.rows("read", SQL["keep_first"], plugin, key, value)
        return (await self.kept(plugin))[key]


def _candidates(wanted: CallFilter) -> str:
    """The query for the calls that are looked at: by the filter that leaves the fewest."""
    if len(wanted.number) >= FEW_DIGITS:
        return "by_number"
    if wanted.enterprises is not None and len(wanted.enterprises) <= FEW_ENTERPRISES:
        return "by_enterprise"
    return "by_time"


def _arguments(wanted: CallFilter) -> list[Any]:
    """The arguments of ``matching``, in its order."""
    tail = wanted.number[::-1] or None
    return [
        None if wanted.enterprises is None else [part_of(enterprise) for enterprise in wanted.enterprises],
        None if wanted.enterprises is None else list(wanted.enterprises),
        tail,
        f"{tail}:" if tail else None,  # ":" is behind every digit
        f"% {_like(wanted.extension)} %" if wanted.extension else None,
        wanted.direction and str(wanted.direction),
        wanted.result and str(wanted.result),
        wanted.unsent,
    ]


def _page(rows: Sequence[Any], searched_to: tuple[datetime, int] | None) -> CallPage:
    """``searched_to`` is the place behind which the next page begins, ``None`` at the end."""
    return CallPage(
        calls=tuple(_listed(row) for row in rows),
        next=write_page_key(*searched_to) if searched_to else "",
        searched_to=searched_to[0] if searched_to else None,
    )


def _listed(row: Any) -> Listed:
    return Listed(facts=read_facts(row["facts"]), n_chats=row["n_chats"], n_shown=row["n_shown"])


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
