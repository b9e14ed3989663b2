"""The processes that are measured: started here, asked until they answer, ended by their pid."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from tests.bench.load import HOST, connect, request
from tests.bench.world import ENTERPRISES

from callgram.context import Chat, Enterprise, Secret
from callgram_postgres.embedded import EmbeddedPostgres
from callgram_postgres.store import connect as connect_store

START_S = 60.0
PLUGINS = """
api = 1
[limits]
private_per_s = 100000
private_burst = 100000
group_per_min = 100000
group_burst = 100000
bot_per_s = 100000
[[plugin]]
name = "postgres"
required = true
[[plugin]]
name = "start"
settings = { hold_s = 1.0 }
[[plugin]]
name = "dial"
[[plugin]]
name = "bridge"
[[plugin]]
name = "hangup"
[[plugin]]
name = "internal"
"""


class Server(msgspec.Struct, frozen=True):
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def rss(self) -> int:
        """Bytes of memory that the process itself has in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def get(self, path: str) -> bytes:
        connection = await connect(self.port)
        well, body = await connection.ask(request(path, b"", method="GET"))
        connection.transport.close()
        if not well:
            raise RuntimeError(f"{path} of the process {self.pid} is not answered 200")
        return body


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


@asynccontextmanager
async def process(
    *command: str, port: int, ready: str | None = None, environment: dict[str, str] | None = None
) -> AsyncIterator[Server]:
    """``python -m COMMAND`` until the end of the context. It is ready when it listens, or answers ``ready`` 200."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALLGRAM_")}
    child = subprocess.Popen(  # noqa: ASYNC220 - a moment, and nothing else runs yet
        [sys.executable, "-m", *command], env=inherited | (environment or {}), start_new_session=True
    )
    server = Server(port, child.pid)
    try:
        await _ready(server, child, ready)
        yield server
    finally:
        child.terminate()
        try:
            await asyncio.to_thread(child.wait, 20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def _ready(server: Server, child: subprocess.Popen[bytes], path: str | None) -> None:
    deadline = time.monotonic() + START_S
    while True:
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{child.args} does not start")
        with suppress(OSError, RuntimeError):
            if path is not None:
                await server.get(path)
            else:
                (await connect(server.port)).transport.close()
            return
        await asyncio.sleep(0.05)


@asynccontextmanager
async def callgram(*, roles: str, workers: int = 1, api_url: str = "http://127.0.0.1:9") -> AsyncIterator[Server]:
    """A ``callgram serve`` on a new embedded PostgreSQL that knows the world's enterprises."""
    home = _home()
    try:
        await _populate(home / "data")
        port = free_port()
        environment = {
            "CALLGRAM_DATA_DIR": str(home / "data"),
            "CALLGRAM_PLUGINS": str(home / "plugins.toml"),
            "CALLGRAM_PORT": str(port),
            "CALLGRAM_TELEGRAM_API_URL": api_url,
            "CALLGRAM_NODE": "bench",
            "LOGURU_LEVEL": "WARNING",
        }
        command = ("callgram", "serve", "--roles", roles, "--workers", str(workers))
        async with process(*command, port=port, ready="/health/ready", environment=environment) as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="callgram-bench-"))
    home.chmod(0o711)  # PostgreSQL runs as another user where we are root
    (home / "plugins.toml").write_text(PLUGINS, "utf-8")
    return home


async def _populate(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start(as_guest_ok=False)
    store = await connect_store(server.dsn)
    for tenant in ENTERPRISES:
        enterprise = Enterprise(number=tenant.number, token=Secret(tenant.token), bot_token=Secret(tenant.bot_token))
        await store.put_enterprise(enterprise)
        for chat in tenant.chats:
            await store.add_subscriber(tenant.number, Chat(id=chat))
    await store.close()
    await server.stop()


@asynccontextmanager
async def fake_api() -> AsyncIterator[Server]:
    port = free_port()
    async with process("tests.bench.fake_api", str(port), port=port) as server:
        yield server


@asynccontextmanager
async def naive(api_url: str) -> AsyncIterator[Server]:
    port = free_port()
    async with process("tests.bench.naive_app", str(port), api_url, port=port) as server:
        yield server


@asynccontextmanager
async def noop() -> AsyncIterator[Server]:
    port = free_port()
    async with process("tests.bench.noop_app", str(port), port=port) as server:
        yield server
