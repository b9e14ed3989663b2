"""The reading half of the store: one call with all that is kept about it, lists of calls, and what plugins keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from callgram.reading import EPOCH, SEARCHED, CallFile, CallFilter, CallPage, Listed, read_page_key, write_page_key
from callgram_postgres.house import House
from callgram_postgres.queries import queries
from callgram_postgres.rows import part_of, read_card, read_facts, read_record, storable, write_cursor

SQL = queries("reading")
CARDS = queries("planning")["cards_of"]
LAST = (datetime(9000, 1, 1, tzinfo=UTC), 2**62)
FEW = 4
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
        cards = await self._pools.rows("read", CARDS, *place, [number])
        return CallFile(
            facts=facts,
            records=tuple(read_record(row) for row in rows[:limit]),
            cards=tuple(read_card(enterprise, row) for row in cards),
            channels=channels,
            failed={row["id"]: row["failed"] for row in rows if row["failed"]},
            absorbed=absorbed,
            cut=len(rows) > limit,
        )

    async def list_calls(self, wanted: CallFilter, *, after: str = "", limit: int = 50) -> CallPage:
        before = LAST if wanted.until is None else (wanted.until, -1)
        if after:
            micros, number = read_page_key(after)
            before = min(before, (EPOCH + timedelta(microseconds=micros), number))
        rare = any((wanted.extension, wanted.direction, wanted.result, wanted.unsent, wanted.number))
        one = wanted.enterprises is not None and len(wanted.enterprises) == 1
        narrow = rare or (wanted.enterprises is not None and not one)
        telling = len(wanted.number) >= FEW  # calls of so long a number are few; of a shorter one they may be a tenth of all
        candidates = SQL["by_number"] if telling else SQL["by_enterprise"] if one else SQL["by_time"]
        searched = SEARCHED if narrow else 2 * (limit + 1)  # absorbed calls are among the candidates
        tail = wanted.number[::-1] or None
        rows = await self._pools.rows(
            "read",
            f"WITH candidates AS MATERIALIZED ({candidates}) {SQL['matching']}",
            *before,
            wanted.since or EPOCH,
            searched,
            None if wanted.enterprises is None else [part_of(enterprise) for enterprise in wanted.enterprises],
            None if wanted.enterprises is None else list(wanted.enterprises),
            tail,
            f"{tail}:" if tail else None,  # ":" is behind every digit
            f"% {_like(wanted.extension)} %" if wanted.extension else None,
            wanted.direction and str(wanted.direction),
            wanted.result and str(wanted.result),
            wanted.unsent,
            limit + 1,
        )
        return _page(rows, searched, limit)

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


def _page(rows: Sequence[Any], searched: int, limit: int) -> CallPage:
    found = [row for row in rows if row["id"] is not None]
    calls = tuple(_listed(row) for row in found[:limit])
    if len(found) > limit:
        last = found[limit - 1]
        return CallPage(
            calls=calls, next=write_page_key(last["started_at"], last["id"]), searched_to=last["started_at"]
        )
    oldest = rows[0]
    if oldest["n_searched"] < searched:
        return CallPage(calls=calls)
    return CallPage(
        calls=calls, next=write_page_key(oldest["oldest_at"], oldest["oldest_id"]), searched_to=oldest["oldest_at"]
    )


def _listed(row: Any) -> Listed:
    return Listed(facts=read_facts(row["facts"]), n_chats=row["n_chats"], n_shown=row["n_shown"])


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
