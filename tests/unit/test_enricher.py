"""The enricher: asks once, beside everything else, and what it learns is an event of the call."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec

from callgram import Call, Chat, Context, Enrichment, Enterprise, Kind, Secret, hookimpl
from callgram.calls.story import tell
from callgram.enricher import Enricher, news
from callgram.events import read_event
from callgram.loader import Plugins, adopt
from callgram.planner import Planner
from callgram.settings import parse_plugins
from callgram.store import NewEvent
from callgram.testing.memory import MemoryStore

NOW = datetime(2025, 9, 14, 9, 5, 23, tzinfo=UTC)
START = {"Token": "t", "UniqueId": "1757840000.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}


class Knows:
    """A directory that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @hookimpl
    async def enrich_call(self, ctx: Context, call: Call) -> Enrichment | None:
        self.asked.append(call.client)
        return Enrichment(names={call.client: "Иванов Иван"})


class Breaks:
    @hookimpl
    async def enrich_call(self, ctx: Context, call: Call) -> dict[str, str] | None:
        raise RuntimeError("no")


class Hangs:
    @hookimpl
    async def enrich_call(self, ctx: Context, call: Call) -> dict[str, str] | None:
        await asyncio.sleep(60)
        return None


class World:
    """A store with one enterprise, a planner and an enricher with the plugins of a test."""

    def __init__(self, **plugins: Any) -> None:
        listed = "".join(f'[[plugin]]\nname = "{name}"\ndeadline_s = 0.05\n' for name in plugins)
        file = parse_plugins(f"api = 1\n{listed or 'plugin = []'}", "test")
        loaded = [adopt(name, found, {}) for name, found in plugins.items()]
        self.store = MemoryStore(lambda: NOW)
        self._plugins = Plugins(file, loaded, lambda outcome: None)

    async def open(self) -> None:
        enterprise = Enterprise(number="0367", token=Secret("t"), bot_token=Secret("1:a"))
        await self.store.put_enterprise(enterprise)
        await self.store.add_subscriber("0367", Chat(id=5))
        directory = await self.store.directory()
        self.enricher = Enricher(self.store, self._plugins, lambda: directory, lambda: NOW, stored=lambda events: None)
        self.offered: list[Call] = []
        self.planner = Planner(
            self.store,
            self._plugins,
            lambda: directory,
            lambda: NOW,
            woken=lambda cards: None,
            changed=lambda calls: (self.offered.extend(calls), self.enricher.offer(calls))[1],
        )

    async def tell(self, kind: Kind, body: dict[str, Any]) -> None:
        raw = msgspec.json.encode(body)
        event = NewEvent(
            enterprise="0367",
            kind=kind,
            unique_id=body["UniqueId"],
            received_at=NOW,
            digest=raw,
            repeat_s=0.0,
            body=raw,
        )
        await self.store.append([event])
        await self.plan()

    async def plan(self) -> None:
        while await self.planner.step():
            pass

    async def settle(self) -> None:
        """Everything that was offered is asked about, and what came of it is planned."""
        waiting = self.enricher._waiting
        while waiting:
            key = next(iter(waiting))
            await self.enricher.enrich(waiting.pop(key))
        await self.plan()


def test_a_name_becomes_an_event_of_the_call_and_is_asked_for_once() -> None:
    async def run() -> None:
        knows = Knows()
        world = World(knows=knows)
        await world.open()
        await world.tell(Kind.START, START)
        await world.settle()
        assert world.offered[-1].names == {"375296254070": "Иванов Иван"}
        await world.tell(Kind.START, START | {"Extra": 1})
        await world.settle()
        assert knows.asked == ["375296254070"]
        await world.tell(Kind.DIAL, START | {"Extensions": ["150"]})
        await world.settle()
        assert len(knows.asked) == 2  # somebody new rings

    asyncio.run(run())


def test_a_plugin_that_breaks_or_hangs_costs_nobody_his_name() -> None:
    async def run() -> None:
        world = World(breaks=Breaks, hangs=Hangs, knows=Knows)
        await world.open()
        await world.tell(Kind.START, START)
        await world.settle()
        assert world.offered[-1].names == {"375296254070": "Иванов Иван"}

    asyncio.run(run())


def test_without_a_plugin_that_knows_nothing_is_asked_or_kept() -> None:
    async def run() -> None:
        world = World()
        await world.open()
        await world.tell(Kind.START, START)
        assert (world.enricher._waiting, world.enricher._asked) == ({}, {})

    asyncio.run(run())


def test_the_first_plugins_name_wins_and_what_is_known_is_no_news() -> None:
    event = read_event(Kind.START, msgspec.json.encode(START), enterprise="0367", received_at=NOW, event_id=1)
    from callgram.calls.facts import opened
    from callgram.numbers import NumberPlan

    call = tell(opened(event), NumberPlan())
    first, second = Enrichment(names={"1": "A"}), Enrichment(names={"1": "B", "2": "C"}, recording="https://x")
    found = news([first, second], call)
    assert found == Enrichment(names={"1": "A", "2": "C"}, recording="https://x")
    assert news([Enrichment(names={"1": "A"})], msgspec.structs.replace(call, names={"1": "A"})) is None
    assert news([], call) is None
