"""The benchmarks of single parts, in this process: the planner on the memory store, and the sender's calls."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from statistics import median
from time import perf_counter, process_time
from typing import Any

import msgspec
from tests.bench import servers
from tests.bench.report import Result

from callgram import loader
from callgram.cards import Message
from callgram.context import Chat, Enterprise, Secret
from callgram.events import Kind
from callgram.planner import Planner
from callgram.settings import Settings, parse_plugins
from callgram.store import NewEvent
from callgram.telegram import api
from callgram.testing.memory import MemoryStore
from callgram.testing.service import PLUGINS

LIVE = (10, 1_000, 50_000)


async def planner() -> list[Result]:
    """What planning an event costs beside 10, 1 000 and 50 000 live calls of the same enterprise."""
    stages = {n_live: await _Planning.prepared(n_live) for n_live in LIVE}
    gc.collect()
    gc.freeze()
    for stage in stages.values():
        await stage.plan(256)
    costs: dict[int, list[float]] = {n_live: [] for n_live in LIVE}
    for _ in range(5):
        for n_live, stage in stages.items():
            costs[n_live].append(await stage.plan(512))
    gc.unfreeze()
    cost = {n_live: median(found) for n_live, found in costs.items()}
    shown = ", ".join(f"{1e6 * cost[n_live]:.0f} µs at {n_live}" for n_live in LIVE)
    return [
        Result(
            name="plan_cost_growth",
            value=cost[LIVE[-1]] / cost[LIVE[0]],
            bar=1.3,
            better="≤",
            detail=f"an event costs {shown} live calls",
        ),
        Result(
            name="plan_events_per_s",
            value=1 / cost[LIVE[1]],
            bar=5_000,
            better="≥",
            detail=f"with {LIVE[1]} live calls in the enterprise",
        ),
    ]


class _Apart:
    """A store that knows how long one waited for it: the memory store looks through all that it has, no database does."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.took_s = store, 0.0

    @asynccontextmanager
    async def plan(self, **given: Any) -> AsyncIterator[Any]:
        taking = self.store.plan(**given)
        self._batch = await self._timed(taking.__aenter__())
        yield self if self._batch is not None else None
        await self._timed(taking.__aexit__(None, None, None))

    def __getattr__(self, name: str) -> Any:
        """Of the batch in hand: what it holds as it is, its methods with the clock beside."""
        found = getattr(self._batch, name)
        return (lambda *given: self._timed(found(*given))) if callable(found) else found

    async def _timed(self, work: Awaitable[Any]) -> Any:
        began = perf_counter()
        try:
            return await work
        finally:
            self.took_s += perf_counter() - began


class _Planning:
    """A planner with a store of its own, and calls for it: ``n_live`` that go on, and others that come and end."""

    def __init__(self, store: _Apart, made: Planner) -> None:
        self._store, self._planner, self._serial = store, made, count(1)

    @classmethod
    async def prepared(cls, n_live: int) -> _Planning:
        settings = Settings(plugins=parse_plugins(PLUGINS, "the benchmark"), plugins_path="bench")
        store = MemoryStore()
        await store.put_enterprise(Enterprise(number="0367", token=Secret("t"), bot_token=Secret("700001:A")))
        await store.add_subscriber("0367", Chat(id=5000))
        directory = await store.directory()
        plugins = loader.load(settings, lambda outcome: None)
        apart: Any = _Apart(store)
        made = Planner(apart, plugins, lambda: directory, lambda: datetime.now(UTC), woken=lambda cards: None)
        stage = cls(apart, made)
        await stage._planned([_event(Kind.DIAL, next(stage._serial)) for _ in range(n_live)])
        return stage

    async def plan(self, n_calls: int) -> float:
        """Seconds for each event of ``n_calls`` calls that ring and are given up."""
        calls = [next(self._serial) for _ in range(n_calls)]
        return await self._planned([_event(kind, call) for call in calls for kind in (Kind.DIAL, Kind.HANGUP)])

    async def _planned(self, events: list[NewEvent]) -> float:
        await self._store.store.append(events)
        began, apart = perf_counter(), self._store.took_s
        while await self._planner.step():
            pass
        return (perf_counter() - began - (self._store.took_s - apart)) / len(events)


def _event(kind: Kind, call: int) -> NewEvent:
    body = {
        "UniqueId": f"1757840000.{call}",
        "Phone": f"37529{6_000_000 + call}",
        "Extensions": ["150"],
        "CallType": 0,
        "CallStatus": "0",
        "Trunk": "0001363",
    }
    return NewEvent(
        enterprise="0367",
        kind=kind,
        unique_id=str(body["UniqueId"]),
        received_at=datetime.now(UTC),
        digest=f"{kind} {call}".encode(),
        repeat_s=5.0,
        body=msgspec.json.encode(body),
    )


async def sender() -> list[Result]:
    """Calls of the Bot API for each second of our CPU: the sender's way, plain aiohttp, and aiogram."""
    import aiohttp
    from aiogram import Bot
    from aiogram.client.session.aiohttp import AiohttpSession
    from aiogram.client.telegram import TelegramAPIServer

    from callgram.telegram.session import TelegramSession
    from callgram.telegram.settings import SessionSettings

    text = "☎️ <b>Входящий звонок</b>\n💰+375 (29) 625-40-70\n☎️150\n☎️151"
    token = f"700001:{'A' * 35}"
    async with servers.fake_api() as fake:
        own = TelegramSession(SessionSettings(api_url=fake.url))
        bot = Bot(token, session=AiohttpSession(api=TelegramAPIServer.from_base(fake.url)))
        async with aiohttp.ClientSession() as plain:

            async def by_sender() -> None:
                outcome = await api.send_message(own, Secret(token), 5000, Message(text))
                assert outcome.ok, outcome

            async def by_aiohttp() -> None:
                body: dict[str, Any] = {"chat_id": 5000, "text": text, "parse_mode": "HTML"}
                async with plain.post(f"{fake.url}/bot{token}/sendMessage", json=body) as response:
                    assert (await response.json())["ok"]

            async def by_aiogram() -> None:
                await bot.send_message(5000, text, parse_mode="HTML")

            ways = (by_sender, by_aiohttp, by_aiogram)
            for way in ways:
                await _calls_per_cpu_s(way, 300)
            rounds = [[await _calls_per_cpu_s(way, 1_500) for way in ways] for _ in range(5)]
        await own.close()
        await bot.session.close()
    ours, by_hand, aiogram = (median(column) for column in zip(*rounds, strict=True))
    detail = f"{ours:.0f} calls per CPU second, {by_hand:.0f} of plain aiohttp, {aiogram:.0f} of aiogram"
    return [
        Result(name="sender_vs_aiohttp", value=ours / by_hand, bar=0.6, better="≥", detail=detail),
        Result(name="sender_vs_aiogram", value=ours / aiogram, bar=1.8, better="≥", detail=detail),
    ]


async def _calls_per_cpu_s(call: Callable[[], Awaitable[None]], n_calls: int) -> float:
    left = iter(range(n_calls))

    async def work() -> None:
        for _ in left:
            await call()

    began = process_time()
    await asyncio.gather(*(work() for _ in range(32)))
    return n_calls / (process_time() - began)
