"""The real sender against the simulator, in one process: a store in memory, and a plugin that draws what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from callgram import Audio, Call, Chat, Context, Message, Stage, hookimpl
from callgram.calls.facts import Facts, Hangup
from callgram.cards import Urgency
from callgram.context import Enterprise, Secret
from callgram.events import Kind
from callgram.loader import Plugins, adopt
from callgram.sender import Sender
from callgram.settings import CallSettings, PluginEntry, PluginsFile
from callgram.store import CallRow, CardRow, ChatLimit, NewEvent, Planned
from callgram.telegram.limits import Limits, LimitSettings
from callgram.telegram.session import TelegramSession
from callgram.telegram.settings import SessionSettings
from callgram.testing.alone import plan_one
from callgram.testing.memory import MemoryStore
from callgram.trace import Action, Op
from callgram_simulator.chats import Dialog
from callgram_simulator.faults import Fault
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

from .card_world import run

CHAT, GROUP = 41, -1_001_000_000_041
ROOMY = LimitSettings(private_per_s=100, private_burst=100, group_per_min=6000, group_burst=100, bot_per_s=1000)


class Rig:
    """Made by :func:`rig`. ``draws`` is ``{call: text or None}``; without an entry a message says its call and stage. ``audio``
    is ``{call: what follows its last message}``."""

    def __init__(self, simulator: Simulator, file: PluginsFile, store: MemoryStore, session: Any, url: str) -> None:
        self.simulator, self.store, self.session = simulator, store, session
        self.draws: dict[int, str | None] = {}
        self.audio: dict[int, Audio] = {}
        self._names = count(1)
        self._file = file
        self._until: dict[int, tuple[Stage, int]] = {}

    async def start(self, limits: LimitSettings, numbers: dict[str, tuple[int, ...]]) -> None:
        for at, (number, chats) in enumerate(numbers.items()):
            token = Secret(f"{700 + at}:x")
            await self.store.put_enterprise(Enterprise(number=number, token=Secret(number), bot_token=token))
            for chat in chats:
                await self.store.add_subscriber(number, Chat(id=chat))
        self.directory = await self.store.directory()
        self.limits = Limits(limits)
        self.begin()

    def begin(self) -> None:
        """A process that knows nothing of the one before."""
        self.store = self.store.another_process()
        plugins = Plugins(self._file, [adopt("draw", self, {})], lambda outcome: None)
        self.sender = Sender(
            self.store,
            plugins,
            lambda: self.directory,
            session=self.session,
            limits=self.limits,
            clock=lambda: datetime.now(UTC),
            node="rig",
            done=lambda: None,
        )
        self.sending = asyncio.create_task(self.sender.run())

    async def end(self) -> None:
        """The process is told to end, and does."""
        self.sender.drain()
        await self.sending
        await self.store.release_leases("rig")

    @hookimpl
    async def render_message(self, ctx: Context, call: Call, stage: Stage, chat: Chat) -> Message | None:
        text = self.draws.get(call.id, f"{call.id} {stage}")
        return None if text is None else Message(text, audio=self.audio.get(call.id) if stage is Stage.HANGUP else None)

    async def plan(
        self,
        stage: Stage,
        call: int = 0,
        *,
        number: str = "0367",
        urgency: Urgency = Urgency.LIVE,
        draws: str | None = "",
        audio: Audio | None = None,
        ended: timedelta | None = None,
    ) -> int:
        """A call is at ``stage`` from now on, in every chat of the enterprise; answers its number."""
        uid, now = f"{next(self._names)}.1", datetime.now(UTC)
        body = b'{"Token":"t","UniqueId":"%s"}' % uid.encode()
        event = NewEvent(
            enterprise=number, kind=Kind.START, unique_id=uid, received_at=now, digest=body, repeat_s=0.0, body=body
        )
        await self.store.append([event])
        async with plan_one(self.store, now=now, limit=9) as batch:
            assert batch is not None
            call = call or batch.events[0].id
            if draws != "":
                self.draws[call] = draws
            if audio:
                self.audio[call] = audio
            _, version = self._until.get(call, (stage, 0))
            self._until[call] = (stage, version + 1)
            hangups = (Hangup(at=now - ended, unique_id=str(call), call_type=1),) if ended is not None else ()
            facts = Facts(id=call, enterprise=number, version=version + 1, first_at=now, last_at=now, hangups=hangups)
            keys = frozenset({f"channel:{call}"})
            row = CallRow(facts=facts, unique_id=str(call), started_at=now, ended_at=None, timer_at=None, keys=keys)
            enterprise = self.directory.enterprises[number]
            settings = self._file.call_settings(number)
            cards = [
                CardRow(
                    call_id=call,
                    chat_id=chat.id,
                    bot_id=enterprise.bot_id,
                    stage=stage,
                    replaces=frozenset(one for one in Stage if one.rank < stage.rank),
                    version=version + 1,
                    mode=settings.mode,
                    urgency=urgency,
                    due_at=now,
                )
                for chat in self.directory.chats_of(number)
            ]
            claims, cards = [], self.sender.offer(cards)
            try:
                claims = await batch.commit(
                    Planned(calls=[row], cards=cards, done={one.id: call for one in batch.events})
                )
            finally:
                self.sender.settle(cards, claims)
        return call

    # What is seen

    def dialog(self, chat: int = CHAT, bot: int = 700) -> Dialog:
        return self.simulator.state.dialog(self.simulator.state.bot(bot), chat)

    def texts(self, chat: int = CHAT, bot: int = 700) -> list[str]:
        return [record.message.text or "" for record in self.dialog(chat, bot).records.values()]

    def truth(self, chat: int = CHAT) -> list[tuple[str, str]]:
        return [(one.kind, one.text or "") for one in self.simulator.state.truth if one.chat_id == chat]

    @property
    def actions(self) -> list[Action]:
        return [record.item for record in self._records() if isinstance(record.item, Action)]

    def _records(self) -> list[Any]:
        records: list[Any] = self.now(self.store.trace("", limit=10_000))
        return records

    def outcomes(self, op: Op) -> list[str]:
        return [one.outcome for one in self.actions if one.op is op]

    def reasons(self) -> list[str]:
        return [one.reason for one in self.actions if one.op is Op.SKIP]

    def fail(self, action: Any, method: str, **more: Any) -> None:
        self.simulator.state.faults.add(Fault(action=action, method=method, **more))

    async def until(self, condition: Callable[[], Any], deadline_s: float = 10.0) -> Any:
        deadline = time.monotonic() + deadline_s
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"chats: {self.truth()}, actions: {self.actions}"
            await asyncio.sleep(0.01)
        return answer

    async def until_limits(self) -> list[ChatLimit]:
        limits: list[ChatLimit] = await self.until(lambda: self.now(self.store.limits()))
        return limits

    def now(self, work: Any) -> Any:
        """The result of one of the store's methods, which never suspend."""
        return run(work)

    async def shows(self, *texts: str, chat: int = CHAT) -> None:
        """Returns once the chat shows exactly these messages, and all that was done is written down."""
        await self.until(lambda: self.texts(chat) == list(texts) and self.idle())

    def idle(self) -> bool:
        """No card is in hand: what was done is written down."""
        return all(stored.card.claimed_fence is None for stored in self.store._db.cards.values())


@asynccontextmanager
async def rig(
    chats: tuple[int, ...] = (CHAT,),
    *,
    others: dict[str, tuple[int, ...]] | None = None,
    limits: LimitSettings = ROOMY,
    flood: FloodSettings | None = None,
    url: str = "",
    **settings: Any,
) -> AsyncIterator[Rig]:
    simulated = SimulatorSettings(port=0, flood=flood or FloodSettings(enabled=False))
    file = PluginsFile(api=1, plugin=(PluginEntry(name="draw"),), defaults=CallSettings(**settings))
    async with Simulator(simulated) as simulator:
        session = TelegramSession(SessionSettings(api_url=url or simulator.url))
        made = Rig(simulator, file, MemoryStore(), session, url)
        await made.start(limits, {"0367": chats} | (others or {}))
        try:
            yield made
        finally:
            await made.end()
            await session.close()
