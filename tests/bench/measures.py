"""The benchmarks that run against processes: ingest, the whole way, its latency, memory, and the start."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from statistics import median

import msgspec
from tests.bench import servers, world
from tests.bench.load import Load, drive, pace
from tests.bench.report import Result
from tests.bench.servers import Server

WHOLE = "ingest,plan,send,sink"
CHATS = 3
CORES = len(os.sched_getaffinity(0))


async def ingest() -> list[Result]:
    """Durable ingest against a handler that does nothing: requests answered 200 a second, and how late the slowest are."""
    rounds, n_requests = 7, 12_000
    ours, theirs = [], []
    async with servers.callgram(roles="ingest") as ingesting, servers.noop() as noop:
        await drive(ingesting.port, world.captured(2_000), connections=64)
        await drive(noop.port, world.captured(2_000), connections=64)
        for _ in range(rounds):
            theirs.append(await _driven(noop, world.captured(n_requests), 64))
            ours.append(await _driven(ingesting, world.captured(n_requests), 64))
    own, other = _speed(ours), _speed(theirs)
    own_p99, other_p99 = _p99_ms(ours), _p99_ms(theirs)
    return [
        Result(
            name="ingest_vs_noop",
            value=median(one.per_s / two.per_s for one, two in zip(ours, theirs, strict=True)),
            bar=1.3,
            better="≥",
            detail=f"{own:.0f}/s stored, {other:.0f}/s doing nothing; p99 {own_p99:.1f} and {other_p99:.1f} ms",
            well=own_p99 <= 1.5 * other_p99,
        )
    ]


async def _driven(server: Server, requests: list[bytes], connections: int) -> Load:
    load = await drive(server.port, requests, connections=connections)
    if load.n_refused:
        raise RuntimeError(f"{load.n_refused} of {len(requests)} requests were not answered 200")
    return load


def _speed(loads: list[Load]) -> float:
    return median(load.per_s for load in loads)


def _p99_ms(loads: list[Load]) -> float:
    return median(load.latency_ms(0.99) for load in loads)


async def pipeline() -> list[Result]:
    """The whole way, from the request to the answer of the last message, against a handler that sends by itself: with a worker
    for each core, and for comparison with one."""
    rounds, n_events = 7, 2_000
    ours, alone, theirs = [], [], []
    async with (
        servers.fake_api() as api,
        servers.callgram(roles=WHOLE, workers=CORES, api_url=api.url) as callgram,
        servers.callgram(roles=WHOLE, api_url=api.url) as one_worker,
        servers.naive(api.url) as naive,
    ):
        for server in (callgram, one_worker, naive):
            await _events_per_s(server, api, 200)
        for _ in range(rounds):
            theirs.append(await _events_per_s(naive, api, n_events))
            ours.append(await _events_per_s(callgram, api, n_events))
            alone.append(await _events_per_s(one_worker, api, n_events))
    return [
        Result(
            name="pipeline_vs_naive",
            value=median(one / two for one, two in zip(ours, theirs, strict=True)),
            bar=1.5,
            better="≥",
            detail=f"{median(ours):.0f} events/s to {CHATS} chats each by {CORES} workers, {median(alone):.0f}/s by one, "
            f"{median(theirs):.0f}/s naive",
        )
    ]


async def _events_per_s(server: Server, api: Server, n_events: int) -> float:
    await api.get("/forget")
    last = asyncio.create_task(api.get(f"/answered/{CHATS * n_events}"))
    load = await _driven(server, world.unanswered(n_events), 32)
    async with asyncio.timeout(60):
        ended = msgspec.json.decode(await last, type=float)
    return n_events / (ended - load.began)


async def latency() -> list[Result]:
    """From the request to its messages' arrival at the Bot API, with time between the calls."""
    ours: list[float] = []
    theirs: list[float] = []
    async with (
        servers.fake_api() as api,
        servers.callgram(roles=WHOLE, api_url=api.url) as callgram,
        servers.naive(api.url) as naive,
    ):
        await _latencies_s(callgram, api, 20)
        await _latencies_s(naive, api, 20)
        for _ in range(3):
            theirs += await _latencies_s(naive, api, 80)
            ours += await _latencies_s(callgram, api, 80)
    own, other = 1000 * median(ours), 1000 * median(theirs)
    return [
        Result(
            name="latency_p50_vs_naive",
            value=own / other,
            bar=3.0,
            better="≤",
            detail=f"{own:.1f} ms until a message arrives, {other:.1f} ms naive, at 20 events/s",
        )
    ]


async def _latencies_s(server: Server, api: Server, n_events: int) -> list[float]:
    await api.get("/forget")
    calls = world.ringing(n_events)
    sent_at = await pace(server.port, [request for _, request in calls], per_s=20)
    async with asyncio.timeout(30):
        await api.get(f"/answered/{CHATS * n_events}")
    began = {client: at for (client, _), at in zip(calls, sent_at, strict=True)}
    arrived = msgspec.json.decode(await api.get("/calls"), type=list[tuple[float, str]])
    return [at - began[_client(body)] for at, body in arrived if _client(body) in began]


def _client(body: str) -> str:
    """The client's number that a message shows, however it is written: JSON, a form, with or without spaces."""
    found = re.search(r"375[^\d]*29[^\d]*(\d{3})[^\d]*(\d{2})[^\d]*(\d{2})", body)
    return f"37529{''.join(found.groups())}" if found else ""


async def memory() -> list[Result]:
    """The memory of the process after ten thousand whole calls, against that after the first thousand."""
    async with servers.fake_api() as api, servers.callgram(roles=WHOLE, api_url=api.url) as callgram:
        first = await _rss_after(callgram, 1_000)
        last = await _rss_after(callgram, 9_000)
    return [
        Result(
            name="rss_growth",
            value=last / first,
            bar=1.3,
            better="≤",
            detail=f"{first / 2**20:.0f} MiB after 1 000 calls, {last / 2**20:.0f} MiB after 10 000",
        )
    ]


async def _rss_after(server: Server, n_calls: int) -> int:
    """Calls overlap by fifty, so that each one's events are some time apart; then the cards are given time to settle."""
    waves = [list(world.whole_calls(50)) for _ in range(n_calls // 50)]
    for calls in waves:
        for step in zip(*calls, strict=True):
            await _driven(server, list(step), 32)
    await asyncio.sleep(3.0)
    return server.rss()


async def start() -> list[Result]:
    """How long somebody waits for ``callgram --help``."""
    command = [sys.executable, "-c", "from callgram.cli import main; main(['--help'])"]
    times = []
    for _ in range(6):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: ASYNC221 - nothing else runs
        times.append(time.perf_counter() - began)
    value = median(times[1:])
    return [Result(name="help_s", value=value, bar=0.3, better="≤", detail=f"{value:.2f} s until the help is there")]
