"""The demo: an embedded PostgreSQL, the Telegram simulator and callgram itself as real processes, and real calls.

Two enterprises with three chats each get recorded calls of real Asterisks, endlessly, with new numbers and ids each time.
All of it ends with this process, also when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import re
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec

from callgram.errors import ConfigError
from callgram.replay import Post, read

PATIENCE_S = 60.0
LET_GO_S = 5.0
PAUSE_S = (2.0, 6.0)  # between two calls of one enterprise
PR_SET_PDEATHSIG = 1


class Office(msgspec.Struct, frozen=True, kw_only=True):
    """A demo enterprise: its chats are ``{chat id: title}``."""

    number: str
    name: str
    token: str
    bot_token: str
    bot_name: str
    chats: dict[int, str]


OFFICES = (
    Office(
        number="0367",
        name="Ромашка",
        token="375290000001",  # noqa: S106 - made up, like everything here
        bot_token="7000000001:DEMO-demo-DEMO-demo-DEMO-demo-DEMO1",  # noqa: S106
        bot_name="Ромашка · звонки",
        chats={374573193: "Анна, директор", 401200345: "Борис", -1001570000001: "Отдел продаж"},
    ),
    Office(
        number="0412",
        name="Автодом",
        token="375290000002",  # noqa: S106
        bot_token="7000000002:DEMO-demo-DEMO-demo-DEMO-demo-DEMO2",  # noqa: S106
        bot_name="Автодом · звонки",
        chats={512340981: "Клара", 633450122: "Дежурный", -1001570000002: "Сервис"},
    ),
)
CLIENTS = (
    "375296254070",
    "375291112233",
    "375333456789",
    "375172001020",
    "375447778899",
    "79161234567",
    "375298887766",
)


async def play(*, port: int, chats_port: int, speed: float, once: bool) -> None:
    """Run the demo until Ctrl-C, or until every call was played once."""
    if speed <= 0:
        raise ConfigError("--speed must be more than 0")
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    playing = asyncio.create_task(_play(port, chats_port, speed, once), name="demo")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([playing, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (playing, stopping):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await playing
    click.echo("stopped")


async def _play(port: int, chats_port: int, speed: float, once: bool) -> None:
    for option, chosen in (("--port", port), ("--chats-port", chats_port)):
        await _until_free(option, chosen)
    port, chats_port = port or _free_port(), chats_port or _free_port()
    url, chats_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{chats_port}"
    data_dir = _data_dir()
    environment = {
        **os.environ,
        "CALLGRAM_DATA_DIR": str(data_dir),
        "CALLGRAM_TELEGRAM_API_URL": chats_url,
        "CALLGRAM_HOST": "127.0.0.1",
        "CALLGRAM_PORT": str(port),
    }
    environment.pop("CALLGRAM_DATABASE_URL", None)
    environment.pop("CALLGRAM_PROXY", None)
    click.echo(f"starting (data in {data_dir}) …")
    async with contextlib.AsyncExitStack() as stack, aiohttp.ClientSession() as client:
        state = str(data_dir / "simulator.json")
        simulator = ["simulator", "--port", str(chats_port), "--state", state]
        await stack.enter_async_context(_kept_running("chat view", simulator, environment))
        await _until_answers(client, f"{chats_url}/sim/chats")
        await _name_chats(client, chats_url)
        await _add_offices(environment)
        await stack.enter_async_context(_kept_running("callgram", ["serve"], environment))
        await _until_answers(client, f"{url}/health/ready")
        click.secho(f"\n  Chats      {chats_url}\n  callgram   {url}/schema   health {url}/health/ready", bold=True)
        click.echo("  Trace      call_tracer/0367/events.log\n\nReal calls are playing. Ctrl-C stops all of it.\n")
        calls = _recordings()
        async with asyncio.TaskGroup() as group:
            for at, office in enumerate(OFFICES):
                group.create_task(_call_office(client, url, office, calls, speed=speed, once=once, seed=at))
        await asyncio.sleep(5.0 / speed)


def _data_dir() -> Path:
    """The demo keeps its data, so that a killed one goes on where it was."""
    chosen = os.environ.get("CALLGRAM_DATA_DIR")
    if chosen:
        return Path(chosen).absolute() / "demo"
    if os.geteuid() == 0:
        return Path("/var/lib/callgram/demo")  # PostgreSQL runs as another user, who may not enter /root
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(home) / "callgram/demo"


async def _until_free(option: str, port: int) -> None:
    """Nobody else may listen there: calls would be posted to him. A demo that was killed needs a moment to let go."""
    deadline = asyncio.get_running_loop().time() + LET_GO_S
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise ConfigError(
                        f"port {port}: {error.strerror}; give another {option}, 0 takes a free one"
                    ) from None
        await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.asynccontextmanager
async def _kept_running(name: str, arguments: list[str], environment: Mapping[str, str]) -> AsyncIterator[None]:
    """A process of callgram that is started again when it ends, as systemd would, and stopped at the end."""
    keeping = asyncio.create_task(_keep_running(name, arguments, environment), name=name)
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep_running(name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "callgram",
            *arguments,
            env=dict(environment),
            stdout=asyncio.subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
            start_new_session=True,  # Ctrl-C goes to us; we stop the processes in order
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            raise
        click.secho(f"{name} ended ({code}); starting it again", fg="yellow", err=True)
        await asyncio.sleep(0.5)


async def _until_answers(client: aiohttp.ClientSession, url: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(aiohttp.ClientError):
            async with client.get(url) as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise ConfigError(f"{url} did not answer within {PATIENCE_S:.0f} s; its log is above. Is the port taken?")


async def _name_chats(client: aiohttp.ClientSession, url: str) -> None:
    for office in OFFICES:
        bot_id = int(office.bot_token.partition(":")[0])
        await _control(client, f"{url}/sim/bots", {"token": office.bot_token, "first_name": office.bot_name})
        for chat_id, title in office.chats.items():
            if chat_id > 0:
                await _control(client, f"{url}/sim/users", {"user_id": chat_id, "first_name": title})
            await _control(client, f"{url}/sim/chats", {"bot_id": bot_id, "chat_id": chat_id, "title": title})


async def _control(client: aiohttp.ClientSession, url: str, told: dict[str, Any]) -> None:
    async with client.post(url, json=told) as answer:
        if answer.status != 200:
            raise ConfigError(f"{url}: {answer.status} {await answer.text()}")


async def _add_offices(environment: Mapping[str, str]) -> None:
    """As an integrator would, with the administrative commands; in one process, because each start costs a second."""
    script = ["-c", "from callgram.demo import add_offices; add_offices()"]
    process = await asyncio.create_subprocess_exec(sys.executable, *script, env=dict(environment))
    if await process.wait():
        raise ConfigError("the demo's enterprises cannot be added; the reason is above")


def add_offices() -> None:
    """Put the demo's enterprises and chats into the store of the environment."""
    from callgram.cli import guarded
    from callgram.commands import with_store
    from callgram.context import Chat, Enterprise, Secret

    async def add(store: Any) -> None:
        for office in OFFICES:
            token, bot_token = Secret(office.token), Secret(office.bot_token)
            await store.put_enterprise(
                Enterprise(number=office.number, name=office.name, token=token, bot_token=bot_token)
            )
            for chat_id, title in office.chats.items():
                await store.add_subscriber(office.number, Chat(id=chat_id, name=title))

    guarded(lambda: with_store(add))


def _recordings() -> list[list[Post]]:
    with resources.as_file(resources.files("callgram") / "demo_calls") as folder:
        return [read(path) for path in sorted(folder.glob("*.jsonl"))]


async def _call_office(
    client: aiohttp.ClientSession,
    url: str,
    office: Office,
    calls: list[list[Post]],
    *,
    speed: float,
    once: bool,
    seed: int,
) -> None:
    """Play calls one after another; each enterprise in an order of its own."""
    chance = random.Random(seed)  # noqa: S311 - an order of calls
    while True:
        for call in chance.sample(calls, len(calls)):
            began = asyncio.get_running_loop().time()
            for post in _as_new(call, office, chance):
                await asyncio.sleep(max(0.0, began + post.at_s / speed - asyncio.get_running_loop().time()))
                await _post(client, f"{url}/{post.kind}", post)
            await asyncio.sleep(chance.uniform(*PAUSE_S) / speed)
        if once:
            return


async def _post(client: aiohttp.ClientSession, url: str, post: Post) -> None:
    """Hosts never retry. The demo waits for a callgram that is being started again, so that killing it can be tried."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            async with client.post(url, data=post.body, headers={"Content-Type": "application/json"}) as answer:
                await answer.read()
                return
        except aiohttp.ClientError:
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigError(f"{url} does not answer any more; the log of callgram is above") from None
            await asyncio.sleep(0.2)


def _as_new(call: list[Post], office: Office, chance: random.Random) -> list[Post]:
    """The same call as another one: new client, new channel and bridge ids, the enterprise's Token, the time of now."""
    text = "\n".join(post.body.decode() for post in call)
    epochs = sorted(set(re.findall(r'"(\d{10})\.\d+"', text)))
    bridges = sorted(set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text)))
    changes = {f'"{epoch}.': f'"{chance.randrange(1_700_000_000, 1_900_000_000)}.' for epoch in epochs}
    changes |= {bridge: str(uuid.UUID(int=chance.getrandbits(128))) for bridge in bridges}
    client = chance.choice(CLIENTS)
    changes |= dict.fromkeys(("375291112233", "375290000111"), client)
    text = re.sub("|".join(map(re.escape, changes)), lambda found: changes[found[0]], text)
    bodies = [json.loads(line) | {"Token": office.token} for line in text.split("\n")]
    return [
        Post(at_s=post.at_s, kind=post.kind, body=json.dumps(body, ensure_ascii=False).encode())
        for post, body in zip(call, bodies, strict=True)
    ]
