"""The town in which chaos happens: hosts that post calls, nodes that serve them, one PostgreSQL, and a Telegram.

Nodes are processes of the real program. What happens follows from a seed, but for the time that things take.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from callgram.telegram.limits import LimitSettings
from callgram_simulator.faults import Fault
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings
from callgram_simulator.truth import TruthEntry

from ..serve import Serve, new_base, users

DATABASE = """
import asyncio, pathlib, sys
from callgram_postgres.embedded import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(pathlib.Path(sys.argv[1]))
    await server.start(as_guest_ok=False)
    print(server.dsn, flush=True)
    await server.watch()

asyncio.run(main())
"""
PLUGINS = """
api = 1
limits = { $limits }
[[plugin]]
name = "postgres"
required = true
[[plugin]]
name = "start"
settings = { hold_s = 0.3 }
[[plugin]]
name = "dial"
[[plugin]]
name = "bridge"
[[plugin]]
name = "hangup"
[[plugin]]
name = "internal"
"""
LIMITS = LimitSettings(private_per_s=5, private_burst=10, group_per_min=300, group_burst=30, bot_per_s=30)
FLOOD = FloodSettings(private_burst=30, private_per_s=10, group_per_minute=600, group_burst=60, bot_burst=60, bot_per_s=60)
SETTLED = """
SELECT NOT EXISTS (SELECT FROM call_events WHERE NOT done)
    AND NOT EXISTS (SELECT FROM telegram_messages WHERE due_at IS NOT NULL OR claimed_fence IS NOT NULL)
    AND NOT EXISTS (SELECT FROM calls WHERE absorbed_into IS NULL AND ended_at IS NULL)
"""
WATCH = """
CREATE TABLE planned (id bigint);
CREATE FUNCTION note_planned() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO planned VALUES (NEW.id); RETURN NULL; END';
CREATE TRIGGER note_planned AFTER UPDATE OF done ON call_events FOR EACH ROW EXECUTE FUNCTION note_planned()
"""
"""Has the database itself say how often each event was planned."""
FAULTS = ("hold", "drop_before", "execute_then_drop", "502", "truncated", "500_after", "429_5")


TICK_S = 0.01


class Firm(msgspec.Struct, frozen=True, kw_only=True):
    number: str
    token: str
    bot: int
    chats: tuple[int, ...]


FIRMS = (
    Firm(number="0401", token="88005550401", bot=801, chats=tuple(range(4100, 4124))),
    Firm(number="0402", token="88005550402", bot=802, chats=(4200, 4201, -1_001_000_004_202)),
)


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it really was."""

    firm: Firm
    client: str
    answered: bool


class Node(Serve):
    """``callgram serve``, started, killed and frozen as often as one likes. ``reachable`` is where hosts may ask it now."""

    def __init__(self, town: Town, name: str, n_workers: int) -> None:
        super().__init__(town.plugins, **town.told, CALLGRAM_NODE=name, CALLGRAM_WORKERS=str(n_workers))
        self.name, self.reachable = name, ""

    async def up(self) -> None:
        """Start it. It waits for a database that is not there yet."""
        await asyncio.to_thread(self.start)
        self.reachable = self.url

    def down(self) -> None:
        self.reachable = ""
        if self.process is not None:
            self.kill()

    def processes(self) -> list[int]:
        """All of its workers."""
        return [int(line.split()[0]) for line in users(self.base)]


class Town:
    """Made by :func:`town`."""

    def __init__(
        self, seed: int, base: Path, simulator: Simulator, dsn: str, plugins: str, broken: str, firms: Sequence[Firm]
    ) -> None:
        self.seed, self.random, self.base, self.simulator, self.dsn = seed, random.Random(seed), base, simulator, dsn
        self.plugins, self.firms = plugins, firms
        self.calls: list[Made] = []
        self.nodes: list[Node] = []
        self.cruel_at: list[float] = []
        self.killed_at: list[float] = []
        self.stalls: list[tuple[float, float]] = []
        """When we ourselves did not get to look at the clock: from, until."""
        self.http: aiohttp.ClientSession
        self.told = {
            "CALLGRAM_DATABASE_URL": dsn,
            "CALLGRAM_TELEGRAM_API_URL": simulator.url,
            "PYTHONPATH": str(Path(__file__).parent / "broken") if broken else "",
            "CHAOS_BROKEN": broken,
        }

    # Hosts

    async def call(self, client_at: int) -> None:
        """One call, told by its host: some things twice, some in the wrong order, some never."""
        chance, firm = self.random, self.random.choice(self.firms)
        client, epoch = f"37529{6_100_000 + client_at}", 1_757_900_000 + client_at
        answered = chance.random() < 0.6
        self.calls.append(Made(firm=firm, client=client, answered=answered))
        about = {"UniqueId": f"{epoch}.1", "Phone": client, "CallType": 0, "Trunk": "0001363"}
        leg = {"UniqueId": f"{epoch}.2", "BridgeUniqueid": f"bridge-{epoch}", "Channel": f"SIP/151-{epoch:08x}"}
        head = leg | {"UniqueId": f"{epoch}.1", "Channel": f"SIP/0001363-{epoch:08x}"}
        told: list[tuple[str, dict[str, Any]]] = [("start", about), ("dial", about | {"Extensions": ["150", "151"]})]
        if answered:
            told.append(("bridge", leg | {"CallerIDNum": "151", "ConnectedLineNum": client, "Exten": ""}))
            told.append(("bridge", head | {"CallerIDNum": client, "ConnectedLineNum": "151", "Exten": "0001363"}))
        if chance.random() < 0.2:
            told.pop(chance.randrange(min(2, len(told))))  # lost
        if chance.random() < 0.2 and len(told) > 1:
            told[0], told[1] = told[1], told[0]
        end = about | {"Extensions": ["151"], "CallStatus": "2" if answered else "0"}
        gaps = [chance.choice((0.05, 0.3, 1.0, 2.0)) for _ in told]
        twice = [chance.random() < 0.1 for _ in (*told, end)]
        for (kind, fields), gap_s, again in zip(told, gaps, twice, strict=False):
            await self.post(firm, kind, fields, 1 + again)
            await asyncio.sleep(gap_s)
        await self.post(firm, "hangup", end, 1 + twice[-1])

    async def post(self, firm: Firm, kind: str, fields: dict[str, Any], times: int) -> None:
        """As a host does it: again, and to another node, until it is taken."""
        deadline = time.monotonic() + 60.0
        while times:
            assert time.monotonic() < deadline, f"nobody takes {kind}; seed {self.seed}"
            urls = [node.reachable for node in self.nodes if node.reachable]
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                url = self.random.choice(urls or ["http://127.0.0.1:9"])
                limit = aiohttp.ClientTimeout(total=3)
                body = {"Token": firm.token, **fields}
                async with self.http.post(f"{url}/{kind}", json=body, timeout=limit) as answer:
                    if answer.status == 200:
                        times -= 1
                        continue
            await asyncio.sleep(0.1)

    # Chaos

    async def misfortune(self) -> None:
        """One thing goes wrong, and is mended."""
        chance = self.random
        what = chance.choice(("fault",) * 6 + ("kill", "kill", "cut", "database"))
        if what == "fault":
            method = chance.choice(("sendMessage", "sendMessage", "editMessageText", "deleteMessage"))
            fault = Fault(
                action=chance.choice(FAULTS), method=method, seconds=chance.choice((0.5, 3.0)), executed=chance.random() < 0.5
            )
            self.simulator.state.faults.add(fault)
        elif what == "kill":
            self.cruel_at.append(time.time())
            node = chance.choice(self.nodes)
            node.down()
            self.killed_at.append(time.time())
            await node.up()
        elif what == "cut":
            self.cruel_at.append(time.time())
            with suppress(asyncpg.PostgresError, OSError):
                await self.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'callgram'"
                    " AND pid <> pg_backend_pid()"
                )
        else:
            self.cruel_at.append(time.time())
            pid = int(next((self.base / "data").glob("pg*/postmaster.pid")).read_text().split()[0])
            os.kill(pid, signal.SIGKILL)

    async def freeze(self, node: Node, seconds: float) -> None:
        self.cruel_at.append(time.time())
        url, node.reachable = node.reachable, ""
        frozen = node.processes()
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        node.reachable = node.reachable or url  # it may have been killed meanwhile

    async def lose_owner(self) -> None:
        """The node that sends for the first firm dies and does not come back."""
        await self.until_sql("SELECT EXISTS (SELECT FROM bot_lease)", 60.0)  # it may have been killed just now
        [row] = await self.sql("SELECT owner FROM bot_lease WHERE bot_id = $1", self.firms[0].bot)
        owner = row["owner"].partition("/")[0]
        node = next((node for node in self.nodes if node.name == owner), self.nodes[-1])
        self.cruel_at.append(time.time())
        node.down()
        self.killed_at.append(time.time())
        self.nodes.remove(node)
        node.remove()

    async def watch_clock(self) -> None:
        """The truth log says when we saw a request. Where we slept, that was later than it came."""
        while True:
            before = time.time()
            await asyncio.sleep(TICK_S)
            if (now := time.time()) > before + 2 * TICK_S:
                self.stalls.append((before, now))

    # What became of it

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn, timeout=5)
        try:
            rows: list[Any] = await connection.fetch(query, *arguments, timeout=20)
            return rows
        finally:
            await connection.close()

    async def settled(self, deadline_s: float) -> None:
        try:
            await self.until_sql(SETTLED, deadline_s)
        except AssertionError:
            cards = await self.sql("SELECT * FROM telegram_messages WHERE due_at IS NOT NULL OR claimed_fence IS NOT NULL")
            raise AssertionError(f"it does not come to rest; {len(cards)} cards, such as {cards[:2]}") from None

    async def until_sql(self, question: str, deadline_s: float) -> None:
        """Until the database is there and says yes."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                if (await self.sql(question))[0][0]:
                    return
            await asyncio.sleep(0.2)
        raise AssertionError(f"not within {deadline_s:.0f} s: {question}")

    def truth(self) -> list[TruthEntry]:
        return list(self.simulator.state.truth)

    def visible(self, firm: Firm, chat: int) -> dict[int, str]:
        dialog = self.simulator.state.dialog(self.simulator.state.bot(firm.bot), chat)
        return {message_id: record.message.text or "" for message_id, record in dialog.records.items()}


@asynccontextmanager
async def town(
    seed: int,
    n_nodes: int,
    *,
    n_workers: int = 1,
    broken: str = "",
    firms: Sequence[Firm] = FIRMS,
    limits: LimitSettings = LIMITS,
    flood: FloodSettings = FLOOD,
) -> AsyncIterator[Town]:
    base = new_base()
    told = ", ".join(f"{name} = {value}" for name, value in msgspec.structs.asdict(limits).items())
    database = subprocess.Popen(  # noqa: ASYNC220 - a moment
        [sys.executable, "-c", DATABASE, str(base / "data")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    made: Town | None = None
    try:
        assert database.stdout is not None
        dsn = (await asyncio.to_thread(database.stdout.readline)).strip()
        async with Simulator(SimulatorSettings(port=0, flood=flood)) as simulator, aiohttp.ClientSession() as http:
            made = Town(seed, base, simulator, dsn, PLUGINS.replace("$limits", told), broken, firms)
            made.http = http
            made.nodes = [Node(made, f"node-{at}", n_workers) for at in range(n_nodes)]
            await _populate(dsn, firms)
            await asyncio.gather(*(node.up() for node in made.nodes))
            watching = asyncio.create_task(made.watch_clock())
            yield made
            watching.cancel()
    finally:
        for node in made.nodes if made else ():
            node.remove()
        if database.stdout is not None:
            database.stdout.close()
        database.terminate()
        database.wait(20)
        shutil.rmtree(base, ignore_errors=True)


async def _populate(dsn: str, firms: Sequence[Firm]) -> None:
    from callgram.context import Chat, Enterprise, Secret
    from callgram_postgres.store import connect

    store = await connect(dsn)
    for firm in firms:
        token, bot = Secret(firm.token), Secret(f"{firm.bot}:chaos")
        await store.put_enterprise(Enterprise(number=firm.number, token=token, bot_token=bot))
        for chat in firm.chats:
            await store.add_subscriber(firm.number, Chat(id=chat))
    await store.close()
    connection = await asyncpg.connect(dsn)
    await connection.execute(WATCH)
    await connection.close()
