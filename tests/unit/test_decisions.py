"""Why did nothing come? Each stage that the planner decided against is in the trace of its call, with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callgram.cards import Stage
from callgram.context import Chat, Enterprise, Secret
from callgram.events import Kind
from callgram.loader import load
from callgram.planner import Planner
from callgram.settings import Settings, parse_plugins
from callgram.store import ChatLimit, NewEvent
from callgram.testing.memory import MemoryStore
from callgram.trace import Action, Op

NOW = datetime(2025, 9, 14, 9, 5, tzinfo=UTC)
PLUGINS = "api = 1\n" + "".join(
    f'[[plugin]]\nname = "{name}"\n' for name in ("start", "dial", "bridge", "hangup", "internal")
)
CALL = {"Token": "t", "UniqueId": "1757840723.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
RINGS = CALL | {"Extensions": ["150", "151"]}
PART = CALL | {"UniqueId": "1757840724.8"}


class Office:
    """One enterprise with the chats 41 and 42, planned with the shipped plugins; nobody sends."""

    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore(lambda: self.now)
        self._plugins = load(Settings(plugins=parse_plugins(PLUGINS, "test"), plugins_path="test"), lambda outcome: None)

    async def open(self) -> None:
        await self.store.put_enterprise(Enterprise(number="0367", token=Secret("t"), bot_token=Secret("7:a")))
        for chat in (41, 42):
            await self.store.add_subscriber("0367", Chat(id=chat))

    async def tell(self, *posts: tuple[Kind, dict[str, Any]], after_s: float = 0.0) -> None:
        """Posts that are planned together."""
        self.now += timedelta(seconds=after_s)
        for kind, body in posts:
            raw = msgspec.json.encode(body)
            event = NewEvent(
                enterprise="0367",
                kind=kind,
                unique_id=body["UniqueId"],
                received_at=self.now,
                digest=kind.encode() + raw,
                repeat_s=0.0,
                body=raw,
            )
            await self.store.append([event])
        directory = await self.store.directory()
        planner = Planner(
            self.store, self._plugins, lambda: directory, lambda: self.now, woken=lambda cards: None
        )
        while await planner.step():
            pass

    async def decided(self, unique_id: str = CALL["UniqueId"]) -> set[tuple[int, Stage, str]]:
        records = await self.store.trace_of("0367", unique_id)
        skips = [one.item for one in records if isinstance(one.item, Action) and one.item.op is Op.SKIP]
        return {(skip.chat_id, skip.stage, skip.reason) for skip in skips}


async def held(office: Office) -> None:
    await office.tell((Kind.START, CALL))
    await office.tell((Kind.DIAL, RINGS), after_s=0.3)


async def held_at_once(office: Office) -> None:
    await office.tell((Kind.START, CALL), (Kind.DIAL, RINGS))


async def superseded(office: Office) -> None:
    await office.tell((Kind.START, CALL))
    await office.tell((Kind.DIAL, RINGS), after_s=1.5)


async def superseded_at_once(office: Office) -> None:
    await office.tell((Kind.DIAL, RINGS), (Kind.HANGUP, RINGS | {"CallStatus": "1"}))


async def muted(office: Office) -> None:
    assert await office.store.mute("0367", 42, NOW + timedelta(hours=1))
    await office.tell((Kind.DIAL, RINGS))


async def unmuted(office: Office) -> None:
    await muted(office)
    assert await office.store.mute("0367", 42, None)
    await office.tell((Kind.HANGUP, RINGS | {"CallStatus": "1"}), after_s=5)


async def muted_late(office: Office) -> None:
    """What a chat was told to show is brought to its end."""
    await office.tell((Kind.DIAL, RINGS))
    assert await office.store.mute("0367", 42, NOW + timedelta(hours=1))
    await office.tell((Kind.HANGUP, RINGS | {"CallStatus": "1"}), after_s=5)


async def blocked(office: Office) -> None:
    await office.store.limit_chat(ChatLimit(bot_id=7, chat_id=42, until=None, reason="bot was blocked by the user"))
    await office.tell((Kind.DIAL, RINGS))


async def unsubscribed(office: Office) -> None:
    await office.tell((Kind.DIAL, RINGS))
    await office.store.remove_subscriber("0367", 42)
    await office.tell((Kind.HANGUP, RINGS | {"CallStatus": "1"}), after_s=5)


async def joined(office: Office) -> None:
    """Two calls that turn out to be one: both channels are in one bridge."""
    await office.tell((Kind.DIAL, RINGS))
    await office.tell((Kind.DIAL, PART | {"Extensions": ["152"]}), after_s=1)
    for leg in (CALL, PART):
        bridge = {"Token": "t", "UniqueId": leg["UniqueId"], "BridgeUniqueid": "b-1", "Channel": f"SIP/0001363-{leg['UniqueId']}"}
        await office.tell((Kind.BRIDGE, bridge), after_s=1)


BOTH = (41, 42)
MUTED = "muted: 2025-09-14 10:05Z"


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (held, {(chat, Stage.START, "held") for chat in BOTH}),
        (held_at_once, {(chat, Stage.START, "held") for chat in BOTH}),
        (superseded, {(chat, Stage.START, "superseded") for chat in BOTH}),
        (superseded_at_once, {(chat, Stage.DIAL, "superseded") for chat in BOTH}),
        (muted, {(42, Stage.DIAL, MUTED)}),
        (unmuted, {(42, Stage.DIAL, MUTED), (41, Stage.DIAL, "superseded")}),
        (muted_late, {(chat, Stage.DIAL, "superseded") for chat in BOTH}),
        (blocked, {(42, Stage.DIAL, "blocked: bot was blocked by the user")}),
        (joined, {(chat, Stage.DIAL, "duplicate: part of another call") for chat in BOTH}),
        (unsubscribed, {(41, Stage.DIAL, "superseded"), (42, Stage.HANGUP, "filtered: not subscribed any more")}),
    ],
)
def test_each_stage_that_was_not_sent_says_why(
    happens: Callable[[Office], Awaitable[None]], expected: set[tuple[int, Stage, str]]
) -> None:
    async def run() -> None:
        office = Office()
        await office.open()
        await happens(office)
        assert await office.decided() == expected

    asyncio.run(run())
