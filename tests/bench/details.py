"""The call page, the list, the sinks and the end of a day over a large store (tests.bench.stored), asked for over HTTP.

The page's other side is ``grep`` of the call's UniqueId over the tracer's files of the same calls. Calls are asked for at
random over all days, so most of what a page reads is read for the first time.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp
from tests.bench import stored, world
from tests.bench.load import drive
from tests.bench.report import Result
from tests.bench.servers import Server, free_port, process
from tests.bench.stored import N_EVENTS, Town

from callgram.context import Enterprise, Secret
from callgram.dispatch import Dispatcher, Implementation
from callgram.events import Event
from callgram.sinks import SinkRunner
from callgram.testing import service
from callgram.trace import Record

ASKED, LISTED, SINK_RECORDS = 400, 40, 200_000
DROPPED, TURNS = 3, 4  # days; how often forgetting is measured, of each
WINDOW, CONNECTIONS = 8_000, 8  # requests at a time, about a second; hosts
PLUGINS = 'api = 1\n[[plugin]]\nname = "details"\n'
INGEST = 'api = 1\nretention_days = 60\n[[plugin]]\nname = "postgres"\nrequired = true\n'


async def details() -> list[Result]:
    async with stored.town() as town:
        pages, grep_s = await _pages(town)
        lists = await _lists(town)
        per_s = await _sink(town)
        dropped = await _drop(town)
    slowest = max(lists, key=lambda name: _p99(lists[name]))
    told = f"{town.n_calls} calls, {N_EVENTS} events"
    return [
        Result(
            name="details_p99_ms",
            value=1e3 * _p99(pages),
            bar=50,
            better="≤",
            detail=f"p50 {1e3 * median(pages):.1f} ms; {told}",
        ),
        Result(
            name="details_vs_grep",
            value=median(pages) / median(grep_s),
            bar=0.05,
            better="≤",
            detail=f"grep of the files: {1e3 * median(grep_s):.0f} ms",
        ),
        Result(
            name="list_p99_ms",
            value=1e3 * _p99(lists[slowest]),
            bar=100,
            better="≤",
            detail=f"slowest filter: {slowest}, p50 {1e3 * median(lists[slowest]):.1f} ms; {told}",
        ),
        Result(
            name="sink_records_per_s", value=per_s, bar=20_000, better="≥", detail=f"{SINK_RECORDS} records, one sink"
        ),
        *dropped,
    ]


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


# Ask


@asynccontextmanager
async def _asking(town: Town) -> AsyncIterator[Callable[[str], Any]]:
    """The plugin's pages, asked by an operator who may see all; answers how long each took."""
    from callgram_details.accounts import new_operator, read_operator
    from callgram_details.keys import PLUGIN, Vault

    key, value = new_operator("bench", "a password for the bench", None, masked=False)
    await town.store.keep(PLUGIN, key, value)
    vault = Vault()
    await vault.open(town.store)
    cookies = {"callgram_session": vault.sign_session(["bench", read_operator(value).seal])}
    await vault.close()
    serving = service(telegram_url="http://127.0.0.1:9", plugins=PLUGINS, store=town.store, roles=("ingest",))
    async with serving as started, aiohttp.ClientSession(cookies=cookies) as client:

        async def timed(path: str) -> float:
            began = perf_counter()
            async with client.get(f"{started.url}{path}", allow_redirects=False) as answer:
                await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{path} is answered {answer.status}")
            return perf_counter() - began

        yield timed


async def _pages(town: Town) -> tuple[list[float], list[float]]:
    chance = random.Random(7)
    asked = [town.unique_id(chance.randrange(town.n_calls)) for _ in range(ASKED + 20)]
    async with _asking(town) as timed:
        for unique_id in asked[:20]:
            await timed(f"/call/details/{unique_id}")
        pages = [await timed(f"/call/details/{unique_id}") for unique_id in asked[20:]]
    greps = [await asyncio.to_thread(_grep, town.directory / "trace", unique_id) for unique_id in asked[:7]]
    return pages, greps[2:]


def _grep(directory: Path, unique_id: str) -> float:
    began = perf_counter()
    command = ["grep", "-rhF", unique_id, str(directory)]
    found = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    if not found.stdout:
        raise RuntimeError("grep found nothing")
    return perf_counter() - began


async def _lists(town: Town) -> dict[str, list[float]]:
    chance = random.Random(8)

    def moment() -> str:
        at = town.newest - timedelta(days=stored.DAYS * chance.random())
        return at.strftime("%Y-%m-%dT%H:%M")

    def number() -> str:
        return f"37529{chance.randrange(10**7):07}"

    filters: dict[str, Callable[[], str]] = {
        "none": lambda: "",
        "since": lambda: f"since={moment()}",
        "until": lambda: f"until={moment()}",
        "number": lambda: f"number=%2B{number()}",
        "number of a regular": lambda: f"number={chance.choice(stored.REGULARS)}",
        "local form of a number": lambda: f"number=80{number()[3:]}",
        "last four digits": lambda: f"number={number()[-4:]}",
        "last two digits": lambda: f"number={number()[-2:]}",
        "extension": lambda: f"extension={chance.choice(['150', '151', '152', '999'])}",
        "result": lambda: f"result={chance.choice(['missed', 'answered', 'failed'])}",
        "direction": lambda: f"direction={chance.choice(['incoming', 'outgoing', 'internal'])}",
        "enterprise": lambda: f"enterprise={chance.choice(stored.ENTERPRISES)}",
        "nothing was sent": lambda: "unsent=1",
        "nothing was sent, before": lambda: f"unsent=1&until={moment()}",
    }
    times: dict[str, list[float]] = {}
    async with _asking(town) as timed:
        for name, query in filters.items():
            await timed(f"/calls?{query()}")
            times[name] = [await timed(f"/calls?{query()}") for _ in range(LISTED)]
    return times


# Sinks


async def _sink(town: Town) -> float:
    """How fast one plugin that does nothing is fed, through the dispatcher."""
    n_records, done = 0, asyncio.Event()

    async def on_event(event: Event) -> None:
        nonlocal n_records
        n_records += 1

    takes = Implementation(
        plugin="bench", hook="on_event", function=on_event, arguments=("event",), last=False, deadline_s=5.0
    )
    dispatcher = Dispatcher([takes], lambda _: None)

    async def deliver(sink: str, record: Record) -> bool:
        outcomes = await dispatcher.every("on_event", (sink,), lambda _: {"event": record.item})
        if n_records >= SINK_RECORDS:
            done.set()
        return not any(outcome.ending.failed for outcome in outcomes)

    await town.store.save_cursor("bench", "")
    runner = SinkRunner(town.store, ["bench"], deliver, now=lambda: datetime.now(UTC), random=random.random)
    began = perf_counter()
    running = asyncio.create_task(runner.run())
    await done.wait()
    took_s = perf_counter() - began
    await runner.stop()
    await running
    return n_records / took_s


# The end of a day


async def _drop(town: Town) -> list[Result]:
    """Drop the oldest days, one by one, while hosts post; then forget some of their calls. A kept store is used up by it."""
    for tenant in world.ENTERPRISES:
        secrets = {"token": Secret(tenant.token), "bot_token": Secret(tenant.bot_token)}
        await town.store.put_enterprise(Enterprise(number=tenant.number, **secrets))
    (town.directory / "loaded").unlink(missing_ok=True)
    (town.directory / "plugins.toml").write_text(INGEST)
    port = free_port()
    environment = {
        "CALLGRAM_DATABASE_URL": town.dsn,
        "CALLGRAM_PLUGINS": str(town.directory / "plugins.toml"),
        "CALLGRAM_PORT": str(port),
        "CALLGRAM_NODE": "bench",
        "LOGURU_LEVEL": "WARNING",
    }
    command = ("callgram", "serve", "--roles", "ingest")
    took_s: list[float] = []
    spread_s: list[float] = []
    while_dropped: list[float] = []
    slowest_second: list[float] = []
    while_forgotten: list[float] = []
    n_events = 0
    oldest = (town.newest - timedelta(days=stored.DAYS)).date()
    async with process(*command, port=port, ready="/health/ready", environment=environment) as server:
        await _window(server)
        for day in range(1, DROPPED + 1):
            n_events = max(n_events, await _events_of(town, oldest + timedelta(days=day)))
            until = datetime.combine(oldest + timedelta(days=day + 1), time(), UTC)
            before = _p99(await _windows(server, 5))
            began = perf_counter()
            dropping = asyncio.create_task(town.store._drop_days(until.date()))
            seconds = await _beside(server, dropping)
            took_s.append(await dropping)
            spread_s.append(perf_counter() - began)
            while_dropped.append(_p99([*chain(*seconds)]) / before)
            slowest_second.append(max(map(_p99, seconds)) / before)
            while_forgotten.append(await _forget(town, server, until))
    return [
        Result(
            name="drop_day_s",
            value=max(took_s),
            bar=1.0,
            better="≤",
            detail=f"{DROPPED} days of up to {n_events} events, their actions and decisions; "
            f"with the rests between {max(spread_s):.0f} s",
        ),
        Result(
            name="drop_day_slows_ingest",
            value=max(median(while_dropped), median(while_forgotten)),
            bar=1.5,
            better="≤",
            detail=f"p99 of ingest beside the drop {median(while_dropped):.2f} (its slowest second "
            f"{median(slowest_second):.2f}), beside its calls being forgotten {median(while_forgotten):.2f} of that before",
        ),
    ]


async def _forget(town: Town, server: Server, until: datetime) -> float:
    """The p99 of posting beside calls being forgotten, divided by that without, which is measured in turns: checkpoints come and
    go. Not all of a day: that takes minutes."""
    without: list[float] = []
    beside: list[float] = []
    for _ in range(TURNS):
        without += await _windows(server, 3)
        forgetting = asyncio.create_task(town.store._forget(until, until))
        beside += await _windows(server, 3)
        if forgetting.done():
            raise RuntimeError("there is nothing more to forget")
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
    return _p99(beside) / _p99(without)


async def _events_of(town: Town, day: date) -> int:
    sql = "SELECT count(*) FROM call_events WHERE received_at >= $1 AND received_at < $1 + interval '1 day'"
    return int(await town.store._pools.value("rest", sql, datetime.combine(day, time(), UTC)))


async def _beside(server: Server, work: asyncio.Task[Any]) -> list[list[float]]:
    """Post until ``work`` is done."""
    seconds = [await _window(server)]
    while not work.done():
        seconds.append(await _window(server))
    return seconds


async def _windows(server: Server, n_windows: int) -> list[float]:
    return [latency_s for _ in range(n_windows) for latency_s in await _window(server)]


async def _window(server: Server) -> list[float]:
    """About a second of posting."""
    load = await drive(server.port, world.captured(WINDOW), connections=CONNECTIONS)
    if load.n_refused:
        raise RuntimeError(f"{load.n_refused} events were refused")
    return load.latencies_s
