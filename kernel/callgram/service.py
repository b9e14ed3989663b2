"""The service: one process with its roles. Opens what it needs in order, runs until told to stop, closes in reverse.

The whole flow of an event: http → ingest → (store) → planner → (store) → sender → Telegram; sinks read the store.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec
from loguru import logger

from callgram import loader
from callgram.bell import Bell
from callgram.context import Chat, Context, Directory
from callgram.dispatch import Ending, Outcome
from callgram.errors import ConfigError, StoreError
from callgram.events import Event
from callgram.lifecycle import lifecycle_context, opened_store, start_plugins, utc_now
from callgram.loader import Plugins, Status
from callgram.metrics import HOOK_FAILURES, SINK_LAG
from callgram.settings import Settings
from callgram.shards import dealt
from callgram.store import Ahead, CardRow, NewEvent, Store
from callgram.trace import Record
from callgram.workers import Serve, Workers

RELOAD_S = 0.5  # what an administrative command changes is noticed within a second
HOUSE_S = 3600.0
SINKS = -1  # the lease under which one node feeds the sinks; bots have positive ids
SINK_HOOKS = ("on_event", "on_telegram_action")


class Service:
    """A running process. Make it with :func:`running`."""

    def __init__(self, settings: Settings, plugins: Plugins, store: Store) -> None:
        self.settings, self.plugins, self.store = settings, plugins, store
        self.directory = Directory()
        self.url = ""
        self.planner: Any = None
        self.sender: Any = None
        self.sinks: Any = None
        self.enricher: Any = None
        self.workers: Workers | None = None
        self.serve: Serve | None = None
        self.shard = settings.shard
        self.bell = Bell(store)
        self._parts: list[asyncio.Task[None]] = []

    def known(self) -> Directory:
        return self.directory

    async def reload(self) -> None:
        """Take over what administrative commands, or anybody with SQL, changed."""
        directory = await self.store.directory()
        if directory.mark != self.directory.mark:
            self.directory = _with_superuser(directory, self.settings.superuser)
            self.wake()

    def share_out(self) -> None:
        """Start the other workers, each with its shard."""
        shards = dealt(self.directory.enterprises, self.settings.workers)
        self.shard = shards[0]
        self.workers = Workers(self.settings, shards, self.tell_sinks)

    def wake(self) -> None:
        for part in (self.planner, self.sender, self.sinks):
            if part is not None:
                part.wake()

    def expect(self, events: Sequence[NewEvent]) -> Mapping[str, Collection[str]]:
        """``events`` are about to be stored. See callgram.ingest."""
        own = self.shard.own(events)
        return self.planner.expect(own) if self.planner is not None and len(own) == len(events) else {}

    def wake_planner(self, events: Sequence[NewEvent], ahead: Ahead | None = None) -> None:
        """``events`` were stored. Who else has to do with them is woken when they are planned."""
        if self.planner is None:
            self.bell.ring()
            return
        if self.workers is not None:
            self.workers.wake(events)
        if self.shard.own(events):
            self.planner.wake(ahead)

    def tell_sinks(self) -> None:
        """Something was written that sinks may read."""
        if self.sinks is not None:
            self.sinks.wake()
        elif self.serve is not None:
            self.serve.say_told()

    def run_part(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run one part for the life of the process. One that ends by itself is a bug and ends the process, loudly."""
        task = asyncio.create_task(work, name=name)
        self._parts.append(task)
        return task

    async def until_stopped(self, told: Coroutine[Any, Any, None] | None = None) -> None:
        """Until SIGINT or SIGTERM, with ``told`` until that is done, or until a part of the process breaks."""
        waiting = asyncio.create_task(told or _signalled(), name="stop")
        done, _ = await asyncio.wait([waiting, *self._parts], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()
            raise RuntimeError(f"{task.get_name()} ended by itself")

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """For ``/health/ready``: whether all is well, and what is not."""
        problems = {one.name: one.error for one in self.plugins.loaded.values() if one.status is not Status.OK}
        bots = set(self.directory.bots())
        owned: frozenset[int] = frozenset()
        try:
            owned = await self.store.leased(bots)
            stored = True
        except StoreError:
            stored = False
        report: dict[str, Any] = {
            "status": "ready",
            "store": "ok" if stored else "unreachable",
            "plugins": problems or "ok",
            "bots": {"used": len(bots), "owned": len(owned)},
        }
        if self.workers is not None:
            report["workers"] = self.workers.report()
        if self.sinks is not None:
            report["sinks"] = {name: round(lag, 1) for name, lag in self.sinks.lag().items()}
        working = self.workers is None or self.workers.ready
        well = stored and not problems and working and (owned >= bots or self.sender is None)
        if not well:
            report["status"] = "not ready"
        return well, report

    async def deliver(self, plugin: str, record: Record) -> bool:
        """Hand one record of the trace to one sink; True when it is done with."""
        item = record.item
        if plugin not in self.plugins.enabled(item.enterprise):
            return True
        if isinstance(item, Event) and not item.posted:
            return True
        hook = "on_event" if isinstance(item, Event) else "on_telegram_action"
        ctx = Context(
            now=utc_now(),
            enterprise=self.directory.enterprises.get(item.enterprise),
            locale=self.settings.plugins.call_settings(item.enterprise).locale(),
            settings=self.plugins.settings(plugin, item.enterprise),
        )
        key = "event" if isinstance(item, Event) else "action"
        outcomes = await self.plugins.dispatcher.every(hook, (plugin,), lambda _: {"ctx": ctx, key: item})
        return not any(outcome.ending.failed for outcome in outcomes)


async def _signalled() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _with_superuser(directory: Directory, superuser: int | None) -> Directory:
    """Everybody's messages also go to the superuser, once."""
    if superuser is None:
        return directory
    chats = {}
    for number in directory.enterprises:
        own = directory.chats_of(number)
        known = any(chat.id == superuser for chat in own)
        chats[number] = own if known else (*own, Chat(id=superuser, name="superuser"))
    return msgspec.structs.replace(directory, chats=chats)


class _Publisher:
    """Counts what hooks do wrong and says so, at most once a minute for each plugin and hook."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def __call__(self, outcome: Outcome) -> None:
        if outcome.ending not in {Ending.RAISED, Ending.TIMED_OUT}:
            return
        HOOK_FAILURES.labels(outcome.plugin, outcome.hook, outcome.ending).inc()
        key = (outcome.plugin, outcome.hook)
        now = time.monotonic()
        if now - self._told.get(key, -60.0) >= 60.0:
            self._told[key] = now
            logger.error("plugin {}, hook {} {}: {}", outcome.plugin, outcome.hook, outcome.ending, outcome.error)


@asynccontextmanager
async def running(
    settings: Settings, *, store: Store | None = None, serve: Serve | None = None
) -> AsyncIterator[Service]:
    """A process with its roles, ready to take events inside the context. ``store`` is used instead of a plugin's (tests).
    ``serve`` is the one that this process is another worker of: it takes no events itself.

    Raises:
        CallgramError: it cannot start; the text says why and what to do.
    """
    plugins = loader.load(settings, _Publisher())
    async with AsyncExitStack() as stack:
        used = store if store is not None else await stack.enter_async_context(opened_store(settings, plugins))
        service = Service(settings, plugins, used)
        service.serve = serve
        await start_plugins(plugins, settings, used)
        await service.reload()
        if settings.workers > 1:
            service.share_out()
        service.run_part("directory", _reloading(service))
        service.run_part("house", _keeping_house(service))
        service.run_part("bell", service.bell.run())
        service.run_part("listener", service.bell.listen(service.wake))
        stack.push_async_callback(_end_parts, service)
        if "sink" in settings.roles:
            await stack.enter_async_context(_sinking(service))
        if "send" in settings.roles:
            await stack.enter_async_context(_sending(service))
        if "plan" in settings.roles:
            _plan(service)
        if service.workers is not None:
            await stack.enter_async_context(_working(service, service.workers))
        if serve is None:
            await stack.enter_async_context(_serving(service))
        else:
            serve.attend(service.planner)
        gc.collect()
        gc.freeze()  # aiogram's import leaves 187 000 objects, and a full collection was a pause of 142 ms
        gc.set_threshold(20_000, 20, 20)  # values live for one event; 700 allocations are a tenth of one
        yield service
        logger.info("stopping: requests first, then what is in flight")


def _plan(service: Service) -> None:
    from callgram.enricher import Enricher
    from callgram.planner import NoHands, Planner

    enricher = Enricher(service.store, service.plugins, service.known, utc_now, stored=service.wake_planner)
    planner = Planner(
        service.store,
        service.plugins,
        service.known,
        utc_now,
        woken=lambda cards: _after_plan(service, cards),
        changed=enricher.offer,
        hands=lambda: service.sender or NoHands(),
        shard=service.shard,
    )
    service.planner, service.enricher = planner, enricher
    service.run_part("planner", planner.run())
    service.run_part("enricher", enricher.run())


def _after_plan(service: Service, cards: list[CardRow]) -> None:
    """The sender of this process has its cards already; those of other nodes' bots are theirs."""
    service.tell_sinks()
    own = service.sender.owned if service.sender is not None else frozenset()
    if any(card.bot_id not in own for card in cards):
        service.bell.ring()


@asynccontextmanager
async def _sending(service: Service) -> AsyncIterator[None]:
    from callgram.sender import Sender
    from callgram.telegram.limits import Limits
    from callgram.telegram.session import TelegramSession  # aiogram: 2.7 s
    from callgram.telegram.settings import SessionSettings

    settings = service.settings
    proxy = settings.proxy.reveal() if settings.proxy else None
    session = TelegramSession(SessionSettings(api_url=settings.telegram_api_url, proxy=proxy))
    sender = Sender(
        service.store,
        service.plugins,
        service.known,
        session=session,
        limits=Limits(settings.plugins.limits),
        clock=utc_now,
        node=settings.node,
        done=service.tell_sinks,
        shard=service.shard,
    )
    service.sender = sender
    sending = service.run_part("sender", sender.run())
    try:
        yield
    finally:
        service._parts.remove(sending)
        sender.drain()
        await sending
        with suppress(StoreError):
            await service.store.release_leases(settings.node)
        await session.close()


@asynccontextmanager
async def _working(service: Service, workers: Workers) -> AsyncIterator[None]:
    """The other workers. They finish beside this one: each has its own bots."""
    watching = service.run_part("workers", workers.watch())
    try:
        yield
    finally:
        service._parts.remove(watching)
        await workers.stop()
        await watching


@asynccontextmanager
async def _sinking(service: Service) -> AsyncIterator[None]:
    names = service.plugins.dispatcher.plugins(*SINK_HOOKS)
    service.sinks = _sink_runner(service, names)
    leading = service.run_part("sinks", _sink_while_leased(service, names))
    try:
        yield
    finally:
        service._parts.remove(leading)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


def _sink_runner(service: Service, names: tuple[str, ...]) -> Any:
    from callgram.sinks import SinkRunner

    return SinkRunner(service.store, names, service.deliver, now=utc_now, random=random.random)


async def _sink_while_leased(service: Service, names: tuple[str, ...]) -> None:
    """One node feeds the sinks; another takes over when its lease runs out."""
    node, task = f"{service.settings.node} sinks", None
    try:
        while True:
            held = None
            with suppress(StoreError):
                held = SINKS in await service.store.hold_leases(node, [SINKS], ttl_s=6.0)
            if held and task is None:
                service.sinks = _sink_runner(service, names)  # one that was stopped serves no more
                task = asyncio.create_task(service.sinks.run(), name="sink runner")
            elif held is False and task is not None:
                await service.sinks.stop()
                task = None
            if task is not None and task.done():
                task.result()
            for name, lag in service.sinks.lag().items():
                SINK_LAG.labels(name).set(lag)
            await asyncio.sleep(1.5)
    finally:
        await service.sinks.stop()
        if task is not None:
            await task
        with suppress(StoreError):
            await service.store.release_leases(node)


@asynccontextmanager
async def _serving(service: Service) -> AsyncIterator[None]:
    """The HTTP server: takes requests inside the context; at its end the last ones are answered first."""
    import uvicorn

    from callgram.http import make_app
    from callgram.ingest import Ingest
    from callgram.one_write import OneWriteProtocol

    settings, ingest, writing = service.settings, None, None
    if "ingest" in settings.roles:
        ingest = Ingest(
            service.store, service.known, utc_now, storing=service.expect, stored=service.wake_planner
        )
        await ingest.senders.recall()
        service.run_part("senders", ingest.senders.remember())
        service.run_part("repeats", ingest.count_repeats())
        writing = service.run_part("ingest", ingest.run())
    routes: list[Any] = []
    answers = await service.plugins.dispatcher.every(
        "http_routes", tuple(service.plugins.loaded), lifecycle_context(service.plugins, settings, service.store)
    )
    for outcome in answers:
        routes += outcome.value or []
    config = uvicorn.Config(
        make_app(ingest, service.report, routes),
        loop="none",
        http=OneWriteProtocol,
        proxy_headers=bool(settings.trusted_proxies),  # X-Forwarded-For is anybody's to write
        forwarded_allow_ips=list(settings.trusted_proxies),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    listening = _listen(settings.host, settings.port)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    host, port = listening.getsockname()[:2]
    service.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    ticking = service.run_part("http", server.main_loop())
    try:
        yield
    finally:
        service._parts.remove(ticking)
        server.should_exit = True
        await ticking
        await server.shutdown(sockets=[listening])
        if writing is not None:
            service._parts.remove(writing)
            writing.cancel()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; set CALLGRAM_HOST and CALLGRAM_PORT"
        ) from None
    listening.listen(2048)
    listening.setblocking(False)
    return listening


async def _reloading(service: Service) -> None:
    while True:
        await asyncio.sleep(RELOAD_S)
        try:
            await service.reload()
        except StoreError as error:
            logger.warning("the directory is not reloaded: {}", error)
            await asyncio.sleep(1.0)


async def _keeping_house(service: Service) -> None:
    while True:
        try:
            await service.store.keep_house(now=utc_now(), retention_days=service.settings.plugins.retention_days)
        except StoreError as error:
            logger.warning("the house is not kept: {}", error)
        await asyncio.sleep(HOUSE_S)


async def _end_parts(service: Service) -> None:
    for task in service._parts:
        task.cancel()
    await asyncio.gather(*service._parts, return_exceptions=True)
