"""The real program under test: ``callgram serve`` as a process, its embedded PostgreSQL, a Telegram of our own, and hosts.

Everything is seen from outside: HTTP in, chats and truth log of the simulator, the trace file, the log, the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import aiohttp
import asyncpg
import msgspec
from aiohttp import web

from callgram.context import Chat, Enterprise, Secret
from callgram.replay import Post
from callgram_postgres.store import PostgresStore, connect
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings
from callgram_simulator.state import State
from callgram_simulator.truth import TruthEntry
from callgram_tracer import Line, parse_line

from ..serve import Serve, until, users
from .recordings import with_token

Result = TypeVar("Result")

SUPERUSER = 777_000_777
SHIPPED = ("postgres", "start", "dial", "bridge", "hangup", "internal", "tracer", "details", "simulator")
WIDE = "{ private_per_s = 1000, private_burst = 1000, group_per_min = 60000, group_burst = 1000, bot_per_s = 1000 }"


def plugins_toml(*names: str, enterprises: str = "", **settings: str) -> str:
    """A plugins.toml of these plugins, by default all that are shipped; Telegram's limits are wide open. ``settings`` are inline
    tables by plugin, ``enterprises`` is the text behind."""
    settings = {"start": "{ hold_s = 0.1 }"} | settings
    lines = ["api = 1", f"limits = {WIDE}"]
    for name in names or SHIPPED:
        lines += ["[[plugin]]", f'name = "{name}"']
        if name == "postgres":
            lines.append("required = true")
        if name in settings:
            lines.append(f"settings = {settings[name]}")
    return "\n".join([*lines, enterprises, ""])


# Enterprises


class Office(msgspec.Struct, frozen=True, kw_only=True):
    """An enterprise of a test, with secrets that are found wherever they leak to."""

    number: str
    token: str
    bot_token: str
    chats: tuple[int, ...]

    @property
    def bot(self) -> int:
        return int(self.bot_token.partition(":")[0])


_numbers = itertools.count(1)


def new_office(number: str = "", n_chats: int = 2) -> Office:
    """An enterprise that no other test has: two persons and more, the last chat is a group."""
    at = next(_numbers)
    persons = tuple(500_000_000 + at * 10 + place for place in range(n_chats - 1))
    return Office(
        number=number or f"{7000 + at}",
        token=f"88005{at:04}99",
        bot_token=f"{610_000_000 + at}:SECRET-secret-SECRET-secret-{at:06}",
        chats=(*persons, -1_002_000_000_000 - at),
    )


# Beside the test: one thread with an event loop


class Background:
    """An event loop in a thread: the simulator, the hosts and the look into the database live there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Result]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result], deadline_s: float = 120.0) -> Result:
        result: Result = self.start(work).result(deadline_s)
        return result

    @contextlib.contextmanager
    def serving(self, app: web.Application) -> Iterator[int]:
        """The port of 127.0.0.1 where ``app`` answers meanwhile."""
        runner = web.AppRunner(app)

        async def start() -> int:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return int(runner.addresses[0][1])

        yield self.run(start())
        self.run(runner.cleanup())

    def close(self) -> None:
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Telegram:
    """The simulator, and what its chats show."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._simulator = Simulator(SimulatorSettings(port=0, flood=FloodSettings(enabled=False)))

    def start(self) -> None:
        self._background.run(self._simulator.__aenter__())

    def stop(self) -> None:
        self._background.run(self._simulator.__aexit__(None, None, None))

    @property
    def url(self) -> str:
        return self._simulator.url

    def ask(self, question: Callable[[State], Result]) -> Result:
        async def answer() -> Result:
            return question(self._simulator.state)

        return self._background.run(answer())

    def texts(self, bot: int, chat: int) -> list[str]:
        """The messages that ``chat`` shows of ``bot`` now, oldest first."""

        def look(state: State) -> list[str]:
            known = state.bots.get(bot)
            dialog = known.dialogs.get(chat) if known else None
            return [record.message.text or "" for record in dialog.records.values()] if dialog else []

        return self.ask(look)

    def truth(self, bot: int, chat: int | None = None) -> list[TruthEntry]:
        """What was sent, edited and deleted by ``bot``, in order."""
        entries = self.ask(lambda state: list(state.truth))
        return [one for one in entries if one.bot_id == bot and chat in {None, one.chat_id}]

    def chats(self, bot: int) -> set[int]:
        """Every chat that ever saw anything of ``bot``."""
        return {one.chat_id for one in self.truth(bot)}


# The program


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Program(Serve):
    """One that sends to ``telegram``. ``secrets`` are in no log; ``expected_errors`` are patterns of those that may be in it."""

    def __init__(self, telegram: Telegram, background: Background, plugins: str, **environment: str) -> None:
        super().__init__(plugins, **({"CALLGRAM_TELEGRAM_API_URL": telegram.url} | environment))
        self.telegram, self._background = telegram, background
        self.secrets: set[str] = set()
        self.expected_errors: list[str] = []
        self._database: asyncpg.Connection | None = None

    # Life

    def start(self, *options: str, wait: bool = True, ready: bool = True) -> None:
        super().start(*options, wait=wait)
        if wait and ready:
            until(lambda: self.get("/health/ready").status == 200, "serve is ready", 30)

    def stop(self, deadline_s: float = 20.0) -> int:
        self.disconnect()
        return super().stop(deadline_s)

    def kill(self) -> None:
        super().kill()
        self.disconnect()

    def close(self) -> None:
        """Stop it, and hold against it what no run may leave: processes, secrets or errors in its log."""
        try:
            if self.process is not None:
                assert self.process.poll() is None, f"serve ended by itself: {self.log}"
                assert self.stop() == 0, self.log
            until(lambda: not users(self.base), "no process is left", 20)
            self._check_log()
        finally:
            self.disconnect()
            self.remove()

    def _check_log(self) -> None:
        database_log = self.data / "postgres.log"
        text = self.log + (database_log.read_text() if database_log.exists() else "")
        leaked = [secret for secret in self.secrets if secret in text]
        assert not leaked, f"in the log: {leaked}"
        errors = [line for line in self.log.splitlines() if re.search(r" (ERROR|CRITICAL) |^Traceback", line)]
        unknown = [line for line in errors if not any(re.search(known, line) for known in self.expected_errors)]
        assert not unknown, f"errors in the log:\n{self.log}"

    # Administration

    def cli(self, *arguments: str, deadline_s: float = 30.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """``callgram`` with these arguments, beside the running serve or alone."""
        return subprocess.run(
            [sys.executable, "-m", "callgram", *arguments],
            cwd=self.work,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )

    def add(self, offices: Sequence[Office]) -> None:
        """Add enterprises as the administrative commands do; returns when serve sends for them."""
        self.secrets |= {secret for office in offices for secret in (office.token, office.bot_token)}
        self.secrets |= {office.bot_token.partition(":")[2] for office in offices}
        self.with_store(lambda store: _add(store, offices))
        n_bots = self.sql("SELECT count(DISTINCT bot_token) FROM enterprises")[0][0]
        until(lambda: self.get("/health/ready").json.get("bots") == {"used": n_bots, "owned": n_bots}, "serve sends for them")

    def with_store(self, work: Callable[[PostgresStore], Awaitable[Result]]) -> Result:
        """What ``work`` answers, with a store on its database."""

        async def done() -> Result:
            store = await connect(self.dsn)
            try:
                return await work(store)
            finally:
                await store.close()

        return self._background.run(done())

    # HTTP

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, kind: str, body: dict[str, Any] | bytes, *headers: tuple[str, str]) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        return self.request("POST", f"/{kind}", raw, ("Content-Type", "application/json"), *headers)

    def request(self, method: str, path: str, body: bytes = b"", *headers: tuple[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=15)
        try:
            connection.putrequest(method, path)
            if body and not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers):
                connection.putheader("Content-Length", str(len(body)))
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def tell(self, office: Office, kind: str, **fields: Any) -> None:
        """One event that has to be taken."""
        answer = self.post(kind, {"Token": office.token, **fields})
        assert answer.status == 200, answer

    def play(self, plays: Sequence[tuple[Office, Sequence[Post]]], *, speed: float = 40.0, gap_s: float = 1.0) -> None:
        """Post recordings side by side, each in its order, with its gaps shortened and none longer than ``gap_s``."""
        self._background.run(self._play_all(plays, speed, gap_s))

    async def _play_all(self, plays: Sequence[tuple[Office, Sequence[Post]]], speed: float, gap_s: float) -> None:
        async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
            for office, posts in plays:
                group.create_task(self._play(client, office, posts, speed, gap_s))

    async def _play(
        self, client: aiohttp.ClientSession, office: Office, posts: Sequence[Post], speed: float, gap_s: float
    ) -> None:
        before = 0.0
        for post in posts:
            await asyncio.sleep(min((post.at_s - before) / speed, gap_s))
            before = post.at_s
            async with client.post(f"{self.url}/{post.kind}", data=with_token(post.body, office.token)) as answer:
                assert answer.status == 200, await answer.text()

    # What became of it

    @property
    def dsn(self) -> str:
        embedded = f"postgresql:///callgram?host={self.data}/run&port=5432&user=callgram"
        return self.environment.get("CALLGRAM_DATABASE_URL", embedded)

    def sql(self, query: str, *arguments: Any) -> list[Any]:
        """Rows of its database; raises OSError or asyncpg's errors while it is away."""

        async def ask() -> list[Any]:
            if self._database is None or self._database.is_closed():
                self._database = await asyncpg.connect(self.dsn, timeout=5)
            rows: list[Any] = await self._database.fetch(query, *arguments, timeout=10)
            return rows

        return self._background.run(ask())

    def disconnect(self) -> None:
        """Forget our own connection to the database, which is about to be gone."""
        database, self._database = self._database, None
        if database is not None:

            async def cut() -> None:
                database.terminate()

            self._background.run(cut())

    def settled(self, *offices: Office, deadline_s: float = 30.0) -> None:
        """Returns when every event is planned, every card delivered (but in suspended chats), and no clock of a call runs out."""
        numbers = [office.number for office in offices]

        def idle() -> bool:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it was killed just now
                return bool(self.sql(SETTLED, numbers)[0][0])
            return False

        until(idle, "all events are planned and all cards are delivered", deadline_s)
        parked = self.sql("SELECT kind, failed FROM call_events WHERE enterprise = ANY($1) AND failed <> ''", numbers)
        assert not parked, f"events that could not be planned: {parked}"

    def stored(self, office: Office) -> list[bytes]:
        """The bodies that are in the database, in the order in which they were stored."""
        return [
            row["body"]
            for row in self.sql("SELECT body FROM call_events WHERE enterprise = $1 ORDER BY id", office.number)
        ]

    def trace_text(self, office: Office) -> str:
        path = self.work / "call_tracer" / office.number / "events.log"
        return path.read_text("utf-8", "surrogateescape") if path.exists() else ""

    def trace(self, office: Office) -> list[Line]:
        """The trace file once it has everything that the database has to say about the enterprise."""
        n_records = self.sql(RECORDED, office.number)[0][0]
        until(lambda: self.trace_text(office).count("\n") >= n_records, f"the trace has {n_records} lines")
        return [parse_line(line) for line in self.trace_text(office).split("\n")[:-1]]


async def _add(store: PostgresStore, offices: Sequence[Office]) -> None:
    for office in offices:
        secrets = {"token": Secret(office.token), "bot_token": Secret(office.bot_token)}
        await store.put_enterprise(Enterprise(number=office.number, **secrets))
        for chat in office.chats:
            await store.add_subscriber(office.number, Chat(id=chat))


SETTLED = """
SELECT NOT EXISTS (SELECT FROM call_events WHERE enterprise = ANY($1) AND NOT done)
    AND NOT EXISTS (
        SELECT FROM telegram_messages AS m
        WHERE enterprise = ANY($1) AND due_at IS NOT NULL AND NOT EXISTS (
            SELECT FROM chat_limit AS l WHERE l.bot_id = m.bot_id AND l.chat_id = m.chat_id AND l.until IS NULL
        )
    )
    AND NOT EXISTS (
        SELECT FROM calls
        WHERE enterprise = ANY($1) AND absorbed_into IS NULL AND ended_at IS NULL AND timer_at < now() + interval '60 s'
    )
"""
RECORDED = """
SELECT (SELECT count(*) FROM call_events WHERE enterprise = $1)
    + (SELECT count(*) FROM telegram_actions WHERE enterprise = $1)
    + (SELECT count(*) FROM decisions WHERE enterprise = $1)
"""
