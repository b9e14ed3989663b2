"""The call page, the list and the sinks over a large store: seeded calls, loaded by COPY, asked for over HTTP in this process.

``CALLGRAM_BENCH_EVENTS`` is how many events are stored (1 000 000 when unset; the issue's number is 10 000 000), and as many
actions. The same records are written as the tracer's files, for the comparison with ``grep``.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp
import asyncpg
import msgspec
from tests.bench.report import Result

from callgram.calls.book import Book
from callgram.calls.facts import Facts
from callgram.calls.story import tell
from callgram.context import Enterprise, Locale, Secret
from callgram.events import Event
from callgram.sinks import SinkRunner
from callgram.testing import lab, service
from callgram.trace import Action, Record

N_EVENTS = int(os.environ.get("CALLGRAM_BENCH_EVENTS", "1000000"))
SCENARIO = Path(__file__).parents[1] / "data" / "scenarios" / "incoming-answered.json"
ENTERPRISES = [f"{2000 + n}" for n in range(80)]
DAYS = 12  # that the records are spread over; a store keeps 14
ASKED, LISTED, SINK_RECORDS = 300, 60, 100_000
PLUGINS = 'api = 1\n[[plugin]]\nname = "details"\n'
FILTERS = (
    "",
    "enterprise=2003",
    "number=375290004242",
    "number=4242",
    "extension=151",
    "result=missed",
    "direction=outgoing",
    "unsent=1",
)


class Template(msgspec.Struct):
    """One recorded call: the events and facts that every stored call is made of, by replacing ids, number and time."""

    events: list[Event]
    facts: Facts


async def details() -> list[Result]:
    with _directory() as directory:
        async with _loaded(directory) as (store, n_calls):
            pages, grep_s = await _pages(store, directory, n_calls)
            lists = await _lists(store)
            per_s = await _sink(store)
    slowest = max(lists, key=lambda name: _p99(lists[name]))
    told = f"{n_calls} calls, {N_EVENTS} events"
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
            detail=f"slowest filter: {slowest or 'none'}; {told}",
        ),
        Result(
            name="sink_records_per_s", value=per_s, bar=20_000, better="≥", detail=f"{SINK_RECORDS} records, one sink"
        ),
    ]


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


# Load


class _directory:
    """A directory that the account of the embedded server can pass through."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="callgram-bench-"))
        return self._path

    def __exit__(self, *_error: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


@asynccontextmanager
async def _loaded(directory: Path) -> AsyncIterator[tuple[Any, int]]:
    from callgram_postgres.embedded import EmbeddedPostgres
    from callgram_postgres.store import connect

    server = EmbeddedPostgres(directory, database="bench")
    await server.start(as_guest_ok=False)
    try:
        store = await connect(server.dsn)
        try:
            for number in ENTERPRISES:
                token = Secret(f"token-of-{number}")
                await store.put_enterprise(
                    Enterprise(number=number, token=token, bot_token=Secret(f"{number}:bench-token"))
                )
            await store.make_days(datetime.now(UTC) - timedelta(days=day) for day in range(DAYS + 1))
            yield store, await _load(server.dsn, directory / "trace")
        finally:
            await store.close()
    finally:
        await server.stop()


async def _load(dsn: str, trace: Path) -> int:
    """COPY the calls in, and write the files; answers how many calls."""
    template = _template()
    n_calls = N_EVENTS // len(template.events)
    connection = await asyncpg.connect(dsn)
    files = _Files(trace)
    try:
        number = 0
        while number < n_calls:
            batch = list(_calls(template, number, min(number + 5_000, n_calls), n_calls, files))
            for table, columns in COLUMNS.items():
                rows = [row for call in batch for row in call[table]]
                await connection.copy_records_to_table(table, records=rows, columns=columns)
            number += 5_000
        await connection.execute("SELECT setval('callgram_id', $1)", n_calls * 64 + 64)
        await connection.execute("VACUUM ANALYZE")
    finally:
        files.close()
        await connection.close()
    return n_calls


COLUMNS = {
    table: text.split()
    for table, text in {
        "calls": "part enterprise id facts unique_id started_at ended_at direction result client extensions",
        "call_keys": "part enterprise key call_id weak",
        "call_events": "part enterprise id kind unique_id received_at digest body done call_id",
        "telegram_messages": "part enterprise call_id chat_id bot_id stage replaces version mode urgency shown",
        "telegram_actions": "part enterprise id at call_id unique_id chat_id bot_id stage op message_id text outcome reason "
        "took_s",
    }.items()
}


def _template() -> Template:
    from callgram_details import Details

    events = lab(Details).events(SCENARIO)
    book = Book(Locale().plan)
    for event in events:
        book.apply(event)
    return Template(events=events, facts=next(iter(book.calls.values())))


def unique_of(number: int) -> str:
    return f"{1_600_000_000 + number}"


def _calls(
    template: Template, first: int, behind: int, n_calls: int, files: _Files
) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    from callgram_postgres.rows import part_of

    chance, until = random.Random(first), datetime.now(UTC) - timedelta(hours=1)
    began = template.events[0].received_at
    step = timedelta(days=DAYS) * 0.9 / n_calls
    call = tell(template.facts, Locale().plan)
    facts = msgspec.json.encode(template.facts)
    for number in range(first, behind):
        enterprise = ENTERPRISES[chance.randrange(len(ENTERPRISES))]
        part, at, call_id = part_of(enterprise), until - step * (n_calls - number), number * 64 + 1
        epoch, client = unique_of(number).encode(), f"37529{chance.randrange(10**7):07}"
        days = at - began

        def moved(text: bytes, epoch: bytes = epoch, client: str = client) -> bytes:
            return text.replace(b"1757840000", epoch).replace(b"375296254070", client.encode())

        own = msgspec.json.decode(moved(facts), type=Facts)
        own = msgspec.structs.replace(
            own, id=call_id, enterprise=enterprise, first_at=own.first_at + days, last_at=own.last_at + days
        )
        head = call.unique_id.replace("1757840000", epoch.decode())
        missed = chance.random() < 0.05
        ended = call.ended_at + days if call.ended_at else None
        result = "missed" if missed else "answered"
        rows: dict[str, list[tuple[Any, ...]]] = {
            "calls": [
                (
                    part,
                    enterprise,
                    call_id,
                    msgspec.json.encode(own),
                    head,
                    at,
                    ended,
                    "incoming",
                    result,
                    client,
                    " 150 151 ",
                )
            ],
            "call_keys": [(part, enterprise, f"channel:{head}", call_id, False)],
            "call_events": [],
            "telegram_messages": [],
            "telegram_actions": [],
        }
        for place, event in enumerate(template.events, 1):
            body, uid = moved(event.raw), event.unique_id.replace("1757840000", epoch.decode())
            when = event.received_at + days
            rows["call_events"].append(
                (part, enterprise, call_id + place, str(event.kind), uid, when, epoch, body, True, call_id)
            )
            files.write(enterprise, when, str(event.kind), uid, body)
            chat, op = 41 + place % 2, "send" if place % 3 else "delete"
            text = f"✅Успешный входящий звонок\n💰+{client}\n☎️151\n⌛Разговор 0:31"
            said = (chat, 700, "hangup", op, place, text, "ok", "", 0.05)
            later = when + timedelta(milliseconds=9)
            rows["telegram_actions"].append((part, enterprise, call_id + 32 + place, later, call_id, head, *said))
            files.write(enterprise, when, f"TG|{op}", head, text.encode())
        shown = f'[{{"message_id":{number + 1},"stage":"hangup","digest":"d","sent_at":"{at.isoformat()}"}}]'
        if number % 1000:
            rows["telegram_messages"] = [
                (part, enterprise, call_id, chat, 700, "hangup", "", 1, "replace", 2, shown) for chat in (41, 42)
            ]
        yield rows


class _Files:
    """As many lines as the tracer writes, as long as its lines are."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._files = {number: (directory / f"{number}.log").open("wb") for number in ENTERPRISES}

    def write(self, enterprise: str, at: datetime, kind: str, unique_id: str, text: bytes) -> None:
        line = f"{at:%Y-%m-%d %H:%M:%S},000|AST|{kind}|{unique_id}|".encode()
        self._files[enterprise].write(line + text.replace(b"\n", b"\\n") + b"\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


# Ask


@asynccontextmanager
async def _serving(store: Any) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """The plugin's pages, and the cookie of an operator who may see all."""
    from callgram_details.accounts import new_operator, read_operator
    from callgram_details.keys import PLUGIN, Vault

    key, value = new_operator("bench", "a password for the bench", None, masked=False)
    await store.keep(PLUGIN, key, value)
    vault = Vault()
    await vault.open(store)
    session = vault.sign_session(["bench", read_operator(value).seal])
    await vault.close()
    async with service(telegram_url="http://127.0.0.1:9", plugins=PLUGINS, store=store, roles=("ingest",)) as started:
        yield started.url, {"callgram_session": session}


async def _timed(client: aiohttp.ClientSession, url: str) -> float:
    began = perf_counter()
    async with client.get(url, allow_redirects=False) as answer:
        await answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{url} is answered {answer.status}")
    return perf_counter() - began


async def _pages(store: Any, directory: Path, n_calls: int) -> tuple[list[float], list[float]]:
    chance = random.Random(7)
    head = _template().events[0].unique_id
    async with _serving(store) as (url, cookies), aiohttp.ClientSession(cookies=cookies) as client:
        asked = [head.replace("1757840000", unique_of(chance.randrange(n_calls))) for _ in range(ASKED + 20)]
        for unique_id in asked[:20]:
            await _timed(client, f"{url}/call/details/{unique_id}")
        pages = [await _timed(client, f"{url}/call/details/{unique_id}") for unique_id in asked[20:]]
    greps = [await asyncio.to_thread(_grep, directory / "trace", unique_id) for unique_id in asked[:7]]
    return pages, greps[2:]


def _grep(directory: Path, unique_id: str) -> float:
    began = perf_counter()
    command = ["grep", "-rhF", unique_id, str(directory)]
    found = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    if not found.stdout:
        raise RuntimeError("grep found nothing")
    return perf_counter() - began


async def _lists(store: Any) -> dict[str, list[float]]:
    async with _serving(store) as (url, cookies), aiohttp.ClientSession(cookies=cookies) as client:
        times: dict[str, list[float]] = {}
        for query in FILTERS:
            await _timed(client, f"{url}/calls?{query}")
            times[query] = [await _timed(client, f"{url}/calls?{query}") for _ in range(LISTED)]
        return times


async def _sink(store: Any) -> float:
    """How fast one sink that does nothing is fed."""
    n_records, done = 0, asyncio.Event()

    async def deliver(_sink: str, record: Record) -> bool:
        nonlocal n_records
        assert isinstance(record.item, Event | Action)
        n_records += 1
        if n_records >= SINK_RECORDS:
            done.set()
        return True

    runner = SinkRunner(store, ["bench"], deliver, now=lambda: datetime.now(UTC), random=random.random)
    began = perf_counter()
    running = asyncio.create_task(runner.run())
    await done.wait()
    took_s = perf_counter() - began
    await runner.stop()
    await running
    return n_records / took_s
