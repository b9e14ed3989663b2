"""The planner's batches: an event that cannot be planned harms no other, and what no store takes holds up nobody for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from callgram import deciding
from callgram.calls.book import Book
from callgram.context import Chat, Enterprise, Secret
from callgram.errors import StoreError
from callgram.events import Event, Kind
from callgram.loader import load
from callgram.planner import FEW, WIDTH, Planner
from callgram.settings import Settings, parse_plugins
from callgram.store import Ahead, Batch, NewEvent, Planned
from callgram.testing.memory import MemoryStore
from callgram.testing.memory_batch import MemoryBatch

NOW = datetime(2025, 9, 14, 9, 5, tzinfo=UTC)
PLUGINS = 'api = 1\n[[plugin]]\nname = "dial"\n'
NUMBERS = ("0367", "0400")
GOOD, BAD = "1757840723.6", "1757840724.8"


class Offices:
    """Two enterprises with a chat each. ``widths`` are those of the batches that were asked for, and ``ahead`` what was known
    of them."""

    def __init__(self) -> None:
        self.store: Any = MemoryStore(lambda: NOW)
        self.widths: list[int] = []
        self.ahead: list[Ahead | None] = []
        self.asked = asyncio.Event()
        self._plugins = load(Settings(plugins=parse_plugins(PLUGINS, "test"), plugins_path="test"), lambda outcome: None)

    async def open(self) -> None:
        for place, number in enumerate(NUMBERS, 1):
            await self.store.put_enterprise(
                Enterprise(number=number, token=Secret(f"t{place}"), bot_token=Secret(f"{place}:a"))
            )
            await self.store.add_subscriber(number, Chat(id=40 + place))
        self._directory = await self.store.directory()

    async def post(self, number: str, *unique_ids: str) -> None:
        await self.store.append([new_event(number, uid) for uid in unique_ids])

    def planner(self) -> Planner:
        return Planner(self, self._plugins, lambda: self._directory, lambda: NOW, woken=lambda cards: None)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Planner]:
        planner = self.planner()
        task = asyncio.create_task(planner.run())
        try:
            yield planner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def next_batch(self) -> None:
        """Until the planner asks for one."""
        async with asyncio.timeout(10):
            await self.asked.wait()
        self.asked.clear()

    @asynccontextmanager
    async def plan(self, *, width: int, ahead: Ahead | None, **more: Any) -> AsyncIterator[Batch | None]:
        self.widths.append(width)
        self.ahead.append(ahead)
        self.asked.set()
        async with self.store.plan(width=width, ahead=ahead, **more) as batch:
            yield batch

    def became(self, number: str) -> dict[str, str]:
        """``{UniqueId: what became of it}`` of the events of an enterprise."""
        events = [one for one in self.store._db.events.values() if one.event.enterprise == number]
        return {one.event.unique_id: one.failed or ("planned" if one.done else "waits") for one in events}


def new_event(number: str, uid: str) -> NewEvent:
    about = {"Token": "t", "UniqueId": uid, "Phone": "375296254070", "Extensions": ["150"], "CallType": 1}
    raw = msgspec.json.encode(about)
    return NewEvent(
        enterprise=number, kind=Kind.DIAL, unique_id=uid, received_at=NOW, digest=raw, repeat_s=0.0, body=raw
    )


def opened() -> Offices:
    made = Offices()
    asyncio.run(made.open())
    return made


def breaks(fold: Any) -> Any:
    def broken(self: Book, event: Event) -> Any:
        if event.unique_id == BAD:
            raise ValueError("no such thing")
        return fold(self, event)

    return broken


def test_an_event_that_cannot_be_folded_is_parked_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "apply", breaks(Book.apply))
    made = opened()

    async def play() -> None:
        await made.post("0367", GOOD, BAD, "1757840725.9")
        await made.post("0400", "1757840726.1")
        planner = made.planner()
        assert await planner.step()
        assert made.became("0367") == {GOOD: "planned", BAD: "waits", "1757840725.9": "waits"}  # the first alone
        assert made.became("0400") == {"1757840726.1": "planned"}
        while await planner.step():
            pass

    asyncio.run(play())
    assert made.became("0367") == {GOOD: "planned", BAD: "ValueError: no such thing", "1757840725.9": "planned"}


def test_an_event_whose_rows_cannot_be_made_is_parked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = deciding._Work.fill

    def broken(self: Any, cards: Any) -> Planned:
        if any(call.unique_id == BAD for _, call in self.changed()):
            raise ValueError("no such row")
        return fill(self, cards)

    monkeypatch.setattr(deciding._Work, "fill", broken)
    made = opened()

    async def play() -> None:
        await made.post("0367", GOOD, BAD)
        await made.post("0400", "1757840726.1")
        planner = made.planner()
        while await planner.step():
            pass

    asyncio.run(play())
    assert made.became("0367") == {GOOD: "planned", BAD: "ValueError: no such row"}
    assert made.became("0400") == {"1757840726.1": "planned"}


def test_what_no_store_takes_holds_up_nobody_else() -> None:
    made = opened()
    commit = MemoryBatch.commit

    async def refused(self: MemoryBatch, planned: Mapping[str, Planned]) -> Any:
        if "0367" in planned:
            raise StoreError("a row that cannot be stored")
        return await commit(self, planned)

    async def play() -> None:
        await made.post("0367", BAD)
        await made.post("0400", GOOD)
        planner = made.planner()
        for _ in range(4):
            with suppress(StoreError):
                await planner.step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBatch, "commit", refused)
        asyncio.run(play())
    assert made.widths[:2] == [WIDTH, 1]
    assert (made.became("0367"), made.became("0400")) == ({BAD: "waits"}, {GOOD: "planned"})


KEYS = {f"channel:{GOOD}", "pair:150:375296254070", "born:375296254070:1757840723", "channel:1757840723.5"}
UNREADABLE = msgspec.structs.replace(new_event("0400", BAD), body=b"[]")


@pytest.mark.parametrize(
    ("coming", "behind", "expected"),
    [
        pytest.param([new_event("0367", GOOD)], False, {"0367": KEYS}, id="idle"),
        pytest.param([new_event("0367", GOOD), UNREADABLE], False, {"0367": KEYS}, id="one cannot be read"),
        pytest.param([new_event(of, GOOD) for of in NUMBERS], False, dict.fromkeys(NUMBERS, KEYS), id="two enterprises"),
        pytest.param([new_event("0367", GOOD)] * FEW, False, {"0367": KEYS}, id="few"),
        pytest.param([new_event("0367", GOOD)] * (FEW + 1), False, {}, id="many"),
        pytest.param([new_event("0367", GOOD)], True, {}, id="others wait"),
    ],
)
def test_a_planner_that_is_idle_says_what_it_will_look_for(
    coming: list[NewEvent], behind: bool, expected: dict[str, set[str]]
) -> None:
    made = opened()

    async def play() -> dict[str, set[str]]:
        async with made.running() as planner:
            await made.next_batch()
            await asyncio.sleep(0)
            if behind:
                planner.wake()
            return planner.expect(coming)

    assert asyncio.run(play()) == expected


def test_a_planner_that_has_not_looked_yet_expects_nothing() -> None:
    assert opened().planner().expect([new_event("0367", GOOD)]) == {}


async def _wake(made: Offices, planner: Planner, *unique_ids: str) -> None:
    """Events come one by one, each seen ahead, before the planner can do anything."""
    for uid in unique_ids:
        event = new_event("0367", uid)
        planner.wake((await made.store.append([event], planner.expect([event]) or {"0367": KEYS})).ahead)


@pytest.mark.parametrize(("coming", "used"), [((GOOD,), True), ((GOOD, BAD), False), ((GOOD, BAD, "1757840725.9"), False)])
def test_what_was_seen_ahead_counts_where_nothing_else_waits(coming: tuple[str, ...], used: bool) -> None:
    made = opened()

    async def play() -> None:
        async with made.running() as planner:
            await made.next_batch()
            await made.post("0367", "1757840720.1")
            planner.wake()
            await made.next_batch()  # plans it, and has a version then
            await made.next_batch()
            made.ahead.clear()
            await _wake(made, planner, *coming)
            await made.next_batch()
            await made.next_batch()

    asyncio.run(play())
    assert [one is not None for one in made.ahead] == [used, False]
    assert set(made.became("0367").values()) == {"planned"}


def test_a_planner_that_was_overtaken_plans_what_is_left() -> None:
    made = opened()

    async def play() -> None:
        planner = made.planner()
        await made.post("0367", "1757840720.1")
        await planner.step()
        event = new_event("0367", GOOD)
        ahead = (await made.store.append([event], {"0367": KEYS})).ahead
        await made.post("0367", BAD)
        other = made.planner()
        assert await other.step()
        await made.post("0367", "1757840725.9")
        assert await planner.step(ahead)
        assert made.became("0367")["1757840725.9"] == "waits"
        assert await planner.step()

    asyncio.run(play())
    assert set(made.became("0367").values()) == {"planned"}
    assert len(made.store._db.calls) == 4
