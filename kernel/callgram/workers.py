"""Workers: one serve on several cores. Each worker is a process that plans and sends for a shard of the enterprises; the
first is the serve itself, which alone takes events, feeds the sinks and answers HTTP.

To the store they are nodes like any others. What makes them one is a socket between each and the serve: single bytes that
wake, and its end, which is the end of the other side. A worker that loses its serve ends at once, as the serve would have.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from loguru import logger

from callgram.errors import CallgramError, ConfigError
from callgram.settings import Settings
from callgram.shards import Shard, part_of
from callgram.store import NewEvent

if TYPE_CHECKING:
    from callgram.planner import Planner

SHARED_OUT = ("plan", "send")
"""The roles of which each worker has its part."""
STOP_S = 90.0  # a send in flight may take its 60 s (callgram.telegram.settings)
_READY, _WAKE, _TOLD, _STOP = b"r", b"w", b"t", b"q"


class WorkerError(CallgramError):
    """A worker ended by itself."""


class Workers:
    """The other workers, as the serve sees them. ``told`` is called when one has written what sinks may read."""

    def __init__(self, settings: Settings, shards: Sequence[Shard], told: Callable[[], None]) -> None:
        """``shards``: of all workers, the serve's own first."""
        self._told = told
        self._bounds = [shard.first for shard in shards]
        self._others = [Worker(number, shard, settings) for number, shard in enumerate(shards) if number > 0]

    def wake(self, events: Iterable[NewEvent]) -> None:
        """``events`` were stored."""
        concerned = {bisect_right(self._bounds, part_of(event.enterprise)) - 1 for event in events}
        for worker in self._others:
            if worker.number in concerned:
                worker.tell(_WAKE)

    @property
    def ready(self) -> bool:
        return all(worker.ready for worker in self._others)

    def report(self) -> dict[str, str]:
        """``{worker: ready or starting}``."""
        return {str(worker.number): "ready" if worker.ready else "starting" for worker in self._others}

    async def watch(self) -> None:
        """Listen to all of them until :meth:`stop`. Raises WorkerError when one ends by itself."""
        await asyncio.gather(*(worker.listen(self._told) for worker in self._others))

    async def stop(self) -> None:
        """Have each finish what it has in flight, and wait for its end."""
        for worker in self._others:
            worker.tell(_STOP)
        await asyncio.gather(*(worker.ended() for worker in self._others))


class Worker:
    """Another worker's process, from its start on."""

    def __init__(self, number: int, shard: Shard, settings: Settings) -> None:
        self.number, self.ready, self._stopping = number, False, False
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        command = [sys.executable, "-m", "callgram", "worker", "--number", str(number)]
        command += ["--first", str(shard.first), "--behind", str(shard.behind)]
        command += ["--roles", ",".join(role for role in settings.roles if role in SHARED_OUT)]
        with theirs:
            environment = os.environ | _environment(settings, number)
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), env=environment)  # noqa: S603 - ourselves

    def tell(self, what: bytes) -> None:
        self._stopping = self._stopping or (what == _STOP and self._process.poll() is None)
        _say(self._socket, what)

    async def listen(self, told: Callable[[], None]) -> None:
        while said := await _heard(self._socket):
            self.ready = self.ready or _READY in said
            if _TOLD in said:
                told()
        if not self._stopping:
            code = await asyncio.to_thread(self._process.wait)
            raise WorkerError(f"worker {self.number} ended by itself with {code}: its last lines above say why")

    async def ended(self) -> None:
        try:
            code = await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            logger.error("worker {} did not end within {:.0f} s; it was killed", self.number, STOP_S)
        else:
            if code and self._stopping:
                logger.error("worker {} ended with {}", self.number, code)
        self._socket.close()


def _environment(settings: Settings, number: int) -> dict[str, str]:
    """What options of the serve's command line may have changed."""
    told = {"CALLGRAM_DATA_DIR": str(settings.data_dir), "CALLGRAM_NODE": f"{settings.node}/{number}"}
    return told if settings.plugins_path == "shipped" else told | {"CALLGRAM_PLUGINS": settings.plugins_path}


class Serve:
    """The serve, as one of its other workers sees it: at this process's standard input."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=os.dup(0))
        self._socket.setblocking(False)
        self._planner: Planner | None = None
        self._stop = asyncio.Event()

    @staticmethod
    def leave_signals() -> None:
        """Ctrl-C reaches every process of a terminal, but the serve says when a worker ends: last of all."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    async def listen(self) -> None:
        """As long as the process runs. Where the serve has ended, it ends here and now: what was in flight is then as ambiguous
        as what the serve had in flight itself."""
        while said := await _heard(self._socket):
            if _STOP in said:
                self._stop.set()
            if self._planner is not None and _WAKE in said:
                self._planner.wake()
        logger.error("the serve has ended; so does this worker")
        os._exit(1)

    async def told_to_stop(self) -> None:
        """The serve wants this worker to finish."""
        await self._stop.wait()

    def attend(self, planner: Planner | None) -> None:
        """This worker is ready; ``planner`` wants to know what the serve stores."""
        self._planner = planner
        _say(self._socket, _READY)

    def say_told(self) -> None:
        """Something was written that sinks may read."""
        _say(self._socket, _TOLD)


def _say(connection: socket.socket, what: bytes) -> None:
    """One byte. Where so many wait already that there is no room, the other side is awake; where it has ended, it is heard."""
    with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        connection.send(what)


async def _heard(connection: socket.socket) -> bytes:
    """The next bytes; none at the end, however the other side came to it."""
    try:
        return await asyncio.get_running_loop().sock_recv(connection, 4096)
    except ConnectionError:
        return b""


@contextmanager
def shared_metrics(workers: int) -> Iterator[None]:
    """Have the metrics of all workers in one directory: prometheus_client's own way, which it looks for when it is imported."""
    if workers == 1:
        yield
        return
    with TemporaryDirectory(prefix="callgram-metrics-") as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        yield


def check(workers: int, roles: Sequence[str]) -> None:
    """Raises ConfigError where there is nothing to share out."""
    if workers > 1 and not set(roles) & set(SHARED_OUT):
        raise ConfigError(f"--workers: they share {' and '.join(SHARED_OUT)}; leave it out for --roles {','.join(roles)}")
