"""What every store has to do, whichever it is: the contract of callgram.store, clause by clause.

Each test is an ``async def`` of a :class:`World`, the processes that share one database; ``conforms`` makes it a test of
every implementation. What only PostgreSQL can get wrong is in test_postgres_store.py.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from callgram.calls.book import GRACE
from callgram.calls.facts import Facts, Hangup
from callgram.cards import Shown, Stage, Urgency
from callgram.context import Chat, Enterprise, Secret
from callgram.errors import ConfigError, OvertakenError, StoreError
from callgram.events import Event, History, Kind
from callgram.shards import dealt
from callgram.store import Batch, CallRow, CardRow, ChatLimit, Claim, NewEvent, Planned, Progress, Store
from callgram.testing.alone import plan_one
from callgram.testing.memory import MemoryStore
from callgram.trace import Action, Op
from callgram_postgres import planning

NOW = datetime.now(UTC).replace(microsecond=0)
S = timedelta(seconds=1)
BOT, CHAT = 700, 41


class World:
    """One database. ``open`` is another process on it."""

    def __init__(self, dsn: str | None) -> None:
        self._dsn = dsn
        self._stores: list[Any] = []

    async def open(self) -> Store:
        if self._dsn is None:
            store: Store = self._stores[0].another_process() if self._stores else MemoryStore()
        else:
            from callgram_postgres.store import connect

            store = await connect(self._dsn)
        self._stores.append(store)
        return store

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@pytest.fixture(params=["memory", "postgres"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(planning, "AHEAD_S", 3600.0)  # not a matter of how fast the machine is
    return World(request.getfixturevalue("postgres_dsn") if request.param == "postgres" else None)


def conforms(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(world: World, **given: Any) -> None:
        async def play() -> None:
            try:
                await test(world, **given)
            finally:
                await world.close()

        asyncio.run(play())

    return run


_numbers = itertools.count(1)


def event(
    unique_id: str = "", *, enterprise: str = "0367", at: datetime = NOW, repeat_s: float = 5.0
) -> NewEvent:
    uid = unique_id or f"1700000000.{next(_numbers)}"
    return NewEvent(
        enterprise=enterprise,
        kind=Kind.START,
        unique_id=uid,
        received_at=at,
        digest=hashlib.blake2b(uid.encode(), digest_size=16).digest(),
        repeat_s=repeat_s,
        body=msgspec.json.encode({"Token": "t", "UniqueId": uid, "Phone": "+375296254070"}),
    )


def facts(call: int, enterprise: str = "0367", **more: Any) -> Facts:
    return Facts(id=call, enterprise=enterprise, version=1, first_at=NOW, last_at=NOW, **more)


def call_row(
    call: int,
    *keys: str,
    enterprise: str = "0367",
    started_at: datetime = NOW,
    ended_at: datetime | None = None,
    timer_at: datetime | None = None,
    **more: Any,
) -> CallRow:
    return CallRow(
        facts=facts(call, enterprise, **more),
        unique_id=f"uid-{call}",
        started_at=started_at,
        ended_at=ended_at,
        timer_at=timer_at,
        keys=frozenset(keys),
    )


def card_row(
    call: int,
    chat: int = CHAT,
    *,
    bot: int = BOT,
    stage: Stage = Stage.START,
    urgency: Urgency = Urgency.LIVE,
    due_at: datetime = NOW,
    version: int = 1,
    replaces: Iterable[Stage] = (),
    fence: int | None = None,
) -> CardRow:
    return CardRow(
        call_id=call,
        chat_id=chat,
        bot_id=bot,
        stage=stage,
        replaces=frozenset(replaces),
        version=version,
        mode="replace",
        urgency=urgency,
        due_at=due_at,
        fence=fence,
    )


def shown(message_id: int, stage: Stage = Stage.START) -> Shown:
    return Shown(message_id=message_id, stage=stage, digest="d", sent_at=NOW)


def action(
    call: int,
    op: Op = Op.SEND,
    message_id: int = 0,
    *,
    chat: int = CHAT,
    at: datetime = NOW,
    enterprise: str = "0367",
) -> Action:
    return Action(
        at=at,
        enterprise=enterprise,
        call_id=call,
        unique_id=f"uid-{call}",
        chat_id=chat,
        bot_id=BOT,
        stage=Stage.START,
        op=op,
        message_id=message_id,
        plugin="" if op is Op.SKIP else "hangup",
        retry_after_s=0.0 if op is Op.SKIP else 1.5,
    )


def progress(claim: Claim, *visible: Shown, fence: int | None = None, **more: Any) -> Progress:
    card = claim.card
    held = card.claimed_fence if fence is None else fence
    assert held is not None
    return Progress(
        enterprise=card.enterprise,
        call_id=card.call_id,
        chat_id=card.chat_id,
        bot_id=card.bot_id,
        fence=held,
        version=card.version,
        shown=visible,
        **more,
    )


async def plan(store: Store, enterprise: str = "0367", *, now: datetime = NOW, **planned: Any) -> list[Event]:
    """Have ``enterprise`` planned as told. An event is stored for it, so that there is something to take it up for."""
    await store.append([event(enterprise=enterprise)])
    async with plan_one(store, now=now, limit=1000) as batch:
        assert batch is not None
        assert batch.enterprise == enterprise
        decided = Planned(**planned)
        marked = {*decided.done, *decided.failed}
        decided.done |= {event.id: 0 for event in batch.events if event.id not in marked}
        await batch.commit(decided)
        return list(batch.events)


async def plan_in_hand(store: Store, *cards: CardRow, calls: Iterable[CallRow] = ()) -> list[Claim]:
    """Plan ``cards``; the claims that the commit answers."""
    await store.append([event()])
    async with plan_one(store, now=NOW, limit=1000) as batch:
        assert batch is not None
        rows = [call_row(call) for call in sorted({card.call_id for card in cards})]
        done = {event.id: 0 for event in batch.events}
        return await batch.commit(Planned(calls=[*calls, *rows], cards=list(cards), done=done))


async def find(store: Store, *keys: str, enterprise: str = "0367", now: datetime = NOW) -> dict[int, set[str]]:
    await store.append([event(enterprise=enterprise)])
    async with plan_one(store, now=now, limit=1) as batch:
        assert batch is not None
        assert batch.enterprise == enterprise
        return {found.id: set(by) for found, by in await batch.find(keys)}


async def claim(
    store: Store,
    fence: int = 1,
    *,
    busy: Iterable[tuple[int, int]] = (),
    limit: int = 10,
    now: datetime = NOW,
    done: Iterable[Progress] = (),
) -> list[Claim]:
    return await store.exchange(list(done), leases={BOT: fence}, busy=list(busy), limit=limit, now=now)


async def visible(store: Store, call: int, enterprise: str = "0367") -> dict[int, list[int]]:
    """``{chat: message ids}`` as the planner sees them."""
    await store.append([event(enterprise=enterprise)])
    async with plan_one(store, now=NOW, limit=1) as batch:
        assert batch is not None
        return {card.chat_id: [one.message_id for one in card.shown] for card in await batch.cards([call])}


async def owner(world: World, *, node: str = "a") -> Store:
    store = await world.open()
    assert await store.hold_leases(node, [BOT], ttl_s=30) == {BOT: 1}
    return store


@conforms
async def test_a_chat_is_muted_until_a_moment(world: World) -> None:
    store = await world.open()
    await store.put_enterprise(Enterprise(number="0367", token=Secret("t"), bot_token=Secret("7:a")))
    assert not await store.mute("0367", 41, NOW)
    assert not await store.mute("0400", 41, NOW)
    await store.add_subscriber("0367", Chat(id=41))
    marks = {(await store.directory()).mark}
    for until in (NOW, None):
        assert await store.mute("0367", 41, until)
        directory = await store.directory()
        assert [chat.muted_until for chat in directory.chats_of("0367")] == [until]
        marks.add(directory.mark)
    assert len(marks) >= 2, "who asks for the directory notices"


@conforms
async def test_who_rings_is_heard_by_the_others_and_not_by_himself(world: World) -> None:
    here, there = await world.open(), await world.open()
    heard: list[str] = []
    rung = asyncio.Event()

    def listener(name: str) -> Callable[[], None]:
        return lambda: (heard.append(name), rung.set())[1]

    listening = [asyncio.create_task(one.listen(listener(name))) for one, name in ((here, "here"), (there, "there"))]
    async with asyncio.timeout(10):
        while not rung.is_set():  # until both listen
            await there.ring()
            await asyncio.sleep(0.01)
        rung.clear()
        heard.clear()
        await here.ring()
        await rung.wait()
    assert set(heard) == {"there"}
    for one in listening:
        one.cancel()
    await asyncio.gather(*listening, return_exceptions=True)


@conforms
async def test_who_may_post_is_stored_and_noticed(world: World) -> None:
    """Addresses, secrets and whether they are required; each change is one of the mark, and another process reads the same."""
    store, other = await world.open(), await world.open()
    plain = Enterprise(number="0367", name="Acme", token=Secret("t"), bot_token=Secret("7:a"))
    listed = msgspec.structs.replace(plain, addresses=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/64")))
    one = msgspec.structs.replace(listed, secrets=(Secret("whsec_AAAA"),))
    both = msgspec.structs.replace(one, secrets=(Secret("whsec_BBBB"), *one.secrets), require_signature=True)
    marks = []
    for wanted in (plain, listed, one, both, plain):
        await store.put_enterprise(wanted)
        directory = await other.directory()
        assert directory.enterprises == {"0367": wanted}
        marks.append(directory.mark)
    assert all(before != after for before, after in itertools.pairwise(marks))


@conforms
async def test_a_change_starts_from_what_is_stored_and_none_is_lost(world: World) -> None:
    """Two administrators at once: a secret is shown only once, so it must not be written over."""
    stores = [await world.open() for _ in range(2)]

    def named(old: Enterprise | None) -> Enterprise:
        return old or Enterprise(number="0367", token=Secret("t"), bot_token=Secret("7:a"))

    def adding(text: str) -> Callable[[Enterprise | None], Enterprise]:
        def change(old: Enterprise | None) -> Enterprise:
            assert old is not None
            return msgspec.structs.replace(old, secrets=(Secret(text), *old.secrets))

        return change

    def refusing(old: Enterprise | None) -> Enterprise:
        raise ConfigError("no")

    await stores[0].change_enterprise("0367", named)
    await asyncio.gather(*(stores[at % 2].change_enterprise("0367", adding(f"whsec_{at}")) for at in range(6)))
    with pytest.raises(ConfigError, match="no"):
        await stores[1].change_enterprise("0367", refusing)
    (found,) = (await stores[0].directory()).enterprises.values()
    assert {secret.reveal() for secret in found.secrets} == {f"whsec_{at}" for at in range(6)}


# ingest


@conforms
async def test_a_repetition_within_its_window_is_stored_once(world: World) -> None:
    store = await world.open()
    first, again = event("1.1"), event("1.1")
    assert (await store.append([first, again, event("1.2")])).new == [True, False, True]
    assert (await store.append([again, event("1.3")])).new == [False, True]
    assert (await store.append([event("1.1", at=NOW + 4 * S)])).new == [False]
    assert (await store.append([event("1.1", at=NOW + 6 * S)])).new == [True]
    assert (await store.append([event("1.1", enterprise="0400")])).new == [True]
    assert (await store.append([event("1.1", repeat_s=0.0)])).new == [True]
    assert (await store.append([])).new == []


@conforms
async def test_events_are_planned_in_the_order_given_and_once(world: World) -> None:
    store = await world.open()
    await store.append([event(f"1.{number}") for number in range(7)])
    seen = []
    for _ in range(3):
        async with plan_one(store, now=NOW, limit=3) as batch:
            assert batch is not None
            seen += [one.unique_id for one in batch.events]
            await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    assert seen == [f"1.{number}" for number in range(7)]
    async with plan_one(store, now=NOW, limit=3) as batch:
        assert batch is None


# planner


@conforms
async def test_a_batch_that_is_not_committed_is_planned_again(world: World) -> None:
    store = await world.open()

    async def fail() -> None:
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            raise RuntimeError("a plugin")

    await store.append([event("1.1")])
    with pytest.raises(RuntimeError, match="a plugin"):
        await fail()
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        assert [one.unique_id for one in batch.events] == ["1.1"]
        await batch.commit(Planned(done={batch.events[0].id: 1}))
        with pytest.raises(StoreError):
            await batch.commit(Planned())


@conforms
async def test_an_enterprise_is_in_one_planners_hands_at_a_time(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.append([event(enterprise="0367"), event(enterprise="0400"), event(enterprise="0367")])
    async with plan_one(one, now=NOW, limit=1) as first, plan_one(other, now=NOW, limit=1) as second:
        assert first is not None
        assert second is not None
        assert {first.enterprise, second.enterprise} == {"0367", "0400"}
        async with plan_one(one, now=NOW, limit=1) as third:
            assert third is None


@conforms
async def test_a_batch_is_of_a_few_enterprises_and_keeps_them_apart(world: World) -> None:
    store, other = await world.open(), await world.open()
    numbers = ("0367", "0400", "0500")
    for of in numbers:  # equal ids of channels, in all three
        await plan(store, of, calls=[call_row(7, "channel:1.1", enterprise=of)], cards=[card_row(7)])
    await store.append([event(enterprise=of) for of in numbers for _ in range(2)])
    store = await world.open()  # that has not gone round yet
    async with store.plan(now=NOW, limit=10, width=2) as batch:
        assert batch is not None
        mine = [part.enterprise for part in batch.parts]
        assert [len(part.events) for part in batch.parts] == [2, 2]
        found = await batch.find({mine[0]: ["channel:1.1"], mine[1]: ["channel:9.9"]})
        assert {of: [(facts.enterprise, facts.id) for facts, _ in calls] for of, calls in found.items() if calls} == {
            mine[0]: [(mine[0], 7)]
        }
        cards = await batch.cards({of: [7] for of in mine})
        assert {of: [card.enterprise for card in some] for of, some in cards.items()} == {of: [of] for of in mine}
        async with other.plan(now=NOW, limit=10, width=3) as left:
            assert left is not None
            assert [part.enterprise for part in left.parts] == sorted({*numbers} - {*mine})
        await batch.commit({part.enterprise: Planned(done={one.id: 7 for one in part.events}) for part in batch.parts})
    async with store.plan(now=NOW, limit=10, width=3) as batch:
        assert batch is not None
        assert [part.enterprise for part in batch.parts] == sorted({*numbers} - {*mine})


@conforms
async def test_a_planner_of_a_shard_plans_its_own_enterprises_only(world: World) -> None:
    store, numbers = await world.open(), [f"{number:04d}" for number in range(12)]
    due = numbers[::3]
    for of in due:
        await plan(store, of, calls=[call_row(7, enterprise=of, timer_at=NOW + S)])
    await store.append([event(enterprise=of) for of in numbers if of not in due])
    seen = {}
    for shard in dealt(numbers, 3):
        seen[shard] = set()
        while True:
            async with store.plan(now=NOW + S, limit=10, width=4, shard=shard) as batch:
                if batch is None:
                    break
                seen[shard] |= {part.enterprise for part in batch.parts}
                done = {part.enterprise: {one.id: 7 for one in part.events} for part in batch.parts}
                calls = {part.enterprise: [call_row(7, enterprise=part.enterprise)] if part.due else [] for part in batch.parts}
                await batch.commit({of: Planned(calls=calls[of], done=done[of]) for of in done})
    assert seen == {shard: {of for of in numbers if shard.holds(of)} for shard in seen}


@conforms
async def test_the_events_of_all_enterprises_of_a_batch_are_limited(world: World) -> None:
    store, numbers = await world.open(), [f"{number:04d}" for number in range(5)]
    await store.append([event(enterprise=of) for of in numbers for _ in range(2)])
    seen: dict[int, str] = {}
    while len(seen) < 10:
        async with store.plan(now=NOW, limit=3, width=5) as batch:
            assert batch is not None
            taken = {one.id: part.enterprise for part in batch.parts for one in part.events}
            assert 0 < len(taken) <= 3
            assert not taken.keys() & seen.keys()
            seen |= taken
            done = {part.enterprise: Planned(done={one.id: 1 for one in part.events}) for part in batch.parts}
            await batch.commit(done)


@conforms
async def test_planners_side_by_side_plan_each_event_once_and_each_enterprise_in_order(world: World) -> None:
    stores = [await world.open() for _ in range(2)]
    numbers = [f"{number:04d}" for number in range(12)]
    for part in range(4):
        await stores[0].append([event(enterprise=of, at=NOW + part * S) for of in numbers for _ in range(5)])
    planned: dict[str, list[int]] = {of: [] for of in numbers}

    async def planner(store: Store) -> None:
        idle = 0
        while idle < 3:
            async with store.plan(now=NOW, limit=7, width=3) as batch:
                idle = idle + 1 if batch is None else 0
                if batch is not None:
                    await asyncio.sleep(0)
                    with suppress(OvertakenError):
                        done = {part.enterprise: {one.id: one.id for one in part.events} for part in batch.parts}
                        await batch.commit({of: Planned(done=events) for of, events in done.items()})
                        for of, events in done.items():
                            planned[of] += events

    await asyncio.gather(*(planner(store) for store in stores * 2))
    everything = [number for of in numbers for number in planned[of]]
    assert len(everything) == len(set(everything)) == 12 * 4 * 5
    assert all(planned[of] == sorted(planned[of]) for of in numbers)


@conforms
async def test_a_flood_of_one_enterprise_does_not_starve_another(world: World) -> None:
    store = await world.open()
    for of in ("0100", "0900"):
        await store.append([event(enterprise=of) for _ in range(100)])
    await store.append([event(enterprise="0500")])
    turns = []
    for _ in range(8):
        async with plan_one(store, now=NOW, limit=1) as batch:
            assert batch is not None
            turns.append(batch.enterprise)
            await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    assert {"0100", "0500", "0900"} <= set(turns)


@conforms
async def test_a_failed_event_is_parked_and_can_be_seen(world: World) -> None:
    store = await world.open()
    await store.append([event("1.1"), event("1.2")])
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        bad, good = batch.events
        await batch.commit(Planned(failed={bad.id: "KeyError: \0"}, done={good.id: good.id}))
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None
    assert [record.item.id for record in await store.trace_of("0367", "1.1")] == [bad.id]


@conforms
async def test_an_event_that_cannot_be_read_any_more_is_committed_as_failed(world: World) -> None:
    store = await world.open()
    await store.append([msgspec.structs.replace(event("1.1"), body=b"[]"), event("1.2")])
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        assert [one.unique_id for one in batch.events] == ["1.2"]
        await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None
    raw = [record.item.raw for record in await store.trace("", limit=10) if isinstance(record.item, Event)]
    assert raw[0] == b"[]"


@conforms
async def test_calls_are_due_when_their_timer_ran_out(world: World) -> None:
    store = await world.open()
    await plan(store, calls=[call_row(1, timer_at=NOW + S), call_row(2, timer_at=NOW + 9 * S), call_row(3)])
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None
    async with plan_one(store, now=NOW + 2 * S, limit=10) as batch:
        assert batch is not None
        assert [one.id for one in batch.due] == [1]
        assert list(batch.events) == []
        await batch.commit(Planned(calls=[call_row(1, ended_at=NOW)]))
    async with plan_one(store, now=NOW + 2 * S, limit=10) as batch:
        assert batch is None


@conforms
async def test_calls_are_found_by_their_keys_within_their_enterprise(world: World) -> None:
    store = await world.open()
    hangups = (Hangup(at=NOW, unique_id="1.1", status="1"),)
    await plan(store, calls=[call_row(1, "channel:1.1", "bridge:b", hangups=hangups), call_row(2, "channel:1.2")])
    await plan(store, "0400", calls=[call_row(9, "channel:1.1", enterprise="0400")])
    assert await find(store, "channel:1.1", "bridge:b", "channel:9.9") == {1: {"channel:1.1", "bridge:b"}}
    assert await find(store, "channel:1.2", "bridge:b") == {1: {"bridge:b"}, 2: {"channel:1.2"}}
    assert await find(store) == {}
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        assert [found for found, _ in await batch.find(["bridge:b"])] == [facts(1, hangups=hangups)]
        await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    assert await find(store, "channel:1.1", enterprise="0400") == {9: {"channel:1.1"}}


@conforms
async def test_weak_keys_are_found_until_a_minute_after_the_calls_end(world: World) -> None:
    store = await world.open()
    await plan(store, calls=[call_row(1, "talk:101", "channel:1.1", ended_at=NOW), call_row(2, "talk:101")])
    keys = ("talk:101", "channel:1.1")
    assert await find(store, *keys, now=NOW + GRACE) == {1: set(keys), 2: {"talk:101"}}
    assert await find(store, *keys, now=NOW + GRACE + S) == {1: {"channel:1.1"}, 2: {"talk:101"}}
    later = NOW + timedelta(days=1)
    await plan(store, now=later, calls=[call_row(3, "talk:101")])
    assert await find(store, *keys, now=later) == {1: {"channel:1.1"}, 2: {"talk:101"}, 3: {"talk:101"}}


# events that were seen while they were stored


AHEAD = {"0367": ("channel:1.1", "talk:101", "channel:9.9\0")}


async def known(store: Store, *numbers: str) -> None:
    """Have enterprises that were planned before, and just now."""
    for of in numbers or ("0367",):
        await plan(store, of, calls=[call_row(1, "channel:1.1", "talk:101", enterprise=of)])
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None


@conforms
async def test_what_is_known_of_events_as_they_are_stored_is_what_is_found_later(world: World) -> None:
    store = await world.open()
    await known(store)
    ended = call_row(2, "talk:101", "talk:102", "channel:1.2", ended_at=NOW)
    await plan(store, calls=[ended])
    await plan(store, "0400", calls=[call_row(9, "channel:1.1", enterprise="0400")])
    keys = ("channel:1.1", "talk:101", "talk:102", "channel:9.9\0")
    for after, by in ((GRACE, {1: {"channel:1.1", "talk:101"}, 2: {"talk:101", "talk:102"}}), (GRACE + S, {1: {*keys[:2]}})):
        stored = await store.append([event(at=NOW + after)], {"0367": keys})
        assert stored.new == [True]
        async with plan_one(store, now=NOW + after, limit=10, ahead=stored.ahead) as batch:
            assert batch is not None
            assert [one.received_at for one in batch.events] == [NOW + after]
            assert {call.id: by for call, by in await batch.find(keys)} == by
            assert [call.id for call, _ in await batch.find(["channel:1.1"])] == [1]
            assert await batch.find([]) == []
            more = {call.id: by for call, by in await batch.find(["channel:1.1", "channel:1.2"])}
            assert more == {1: {"channel:1.1"}, 2: {"channel:1.2"}}
            await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None


@conforms
async def test_a_plan_of_what_was_seen_ahead_is_written_as_any_other(world: World) -> None:
    store = await world.open()
    await store.put_enterprise(Enterprise(number="0367", token=Secret("t"), bot_token=Secret("7:a")))
    await known(store)
    await plan(store, calls=[call_row(5, "channel:1.5")], cards=[card_row(5)])
    fence = (await store.hold_leases("a", [BOT], ttl_s=60))[BOT]
    ahead = (await store.append([event("1.1"), event("1.2")], AHEAD)).ahead
    async with plan_one(store, now=NOW, limit=10, ahead=ahead) as batch:
        assert batch is not None
        first, second = batch.events
        card = msgspec.structs.replace(card_row(6), fence=fence)
        rows = [call_row(6, "channel:1.6")]
        decided = Planned(calls=rows, cards=[card], absorbed={5: 6}, skips=[action(6, Op.SKIP)])
        decided.done, decided.failed = {first.id: 6}, {second.id: "no"}
        claims = await batch.commit(decided)
        assert [claim.card.call_id for claim in claims] == [6]
        with pytest.raises(StoreError):
            await batch.commit(Planned())
    assert await find(store, "channel:1.5", "channel:1.6") == {6: {"channel:1.5", "channel:1.6"}}
    ops = [record.item.op for record in await store.trace_of("0367", "1.6") if isinstance(record.item, Action)]
    assert ops == [Op.SKIP]


@conforms
async def test_nobody_is_kept_from_what_was_seen_ahead_and_who_comes_first_plans_it(world: World) -> None:
    store, other = await world.open(), await world.open()
    await known(store)
    ahead = (await store.append([event("1.1")], AHEAD)).ahead
    async with plan_one(store, now=NOW, limit=10, ahead=ahead) as batch:
        assert batch is not None
        async with plan_one(other, now=NOW, limit=10) as theirs:
            assert theirs is not None
            await theirs.commit(Planned(calls=[call_row(7, "channel:1.1")], done={one.id: 7 for one in theirs.events}))
        with pytest.raises(OvertakenError):
            await batch.commit(
                Planned(
                    calls=[call_row(8, "channel:1.1")],
                    cards=[card_row(8)],
                    skips=[action(8, Op.SKIP)],
                    done={one.id: 8 for one in batch.events},
                )
            )
    assert await find(store, "channel:1.1") == {1: {"channel:1.1"}, 7: {"channel:1.1"}}
    assert await store.exchange([], leases=await store.hold_leases("a", [BOT], ttl_s=60), busy=[], limit=9, now=NOW) == []


@conforms
async def test_what_was_seen_ahead_waits_for_nobody_who_has_the_enterprise_in_hand(world: World) -> None:
    """He may be frozen, and other enterprises wait."""
    store, other = await world.open(), await world.open()
    await known(store)
    ahead = (await store.append([event("1.1")], AHEAD)).ahead
    async with plan_one(other, now=NOW, limit=10) as theirs, plan_one(store, now=NOW, limit=10, ahead=ahead) as batch:
        assert theirs is not None
        assert batch is not None
        async with asyncio.timeout(3):
            with pytest.raises(OvertakenError):
                await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
        await theirs.commit(Planned(done={one.id: 2 for one in theirs.events}))
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None


@conforms
async def test_a_plan_of_an_older_event_overtakes_what_was_seen_ahead(world: World) -> None:
    """Also where the event itself still waits: its call may have changed."""
    store, other = await world.open(), await world.open()
    await known(store)
    ahead = (await store.append([event("1.1")], AHEAD)).ahead
    async with plan_one(other, now=NOW, limit=10) as theirs:
        assert theirs is not None
        await theirs.commit(Planned(calls=[call_row(7, "channel:1.1")]))
    async with plan_one(store, now=NOW, limit=10, ahead=ahead) as batch:
        assert batch is not None
        with pytest.raises(OvertakenError):
            await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        assert [one.unique_id for one in batch.events] == ["1.1"]


@conforms
async def test_other_events_are_planned_before_those_that_were_seen_ahead(world: World) -> None:
    store = await world.open()
    await known(store, "0367", "0400")
    await store.append([event("1.2"), event("1.2", enterprise="0400")])
    expected = {"0367": ["channel:1.1"], "0500": ["channel:1.1"]}  # 0500 was never heard of
    ahead = (await store.append([event("1.1"), event("1.1", enterprise="0500")], expected)).ahead
    seen: dict[str, list[str]] = {}
    while len(seen) < 3:
        async with store.plan(now=NOW, limit=10, width=3, ahead=ahead) as batch:
            assert batch is not None
            seen |= {part.enterprise: [one.unique_id for one in part.events] for part in batch.parts}
            await batch.commit({part.enterprise: Planned(done={one.id: 1 for one in part.events}) for part in batch.parts})
    assert seen == {"0367": ["1.2", "1.1"], "0400": ["1.2"], "0500": ["1.1"]}


@conforms
async def test_events_of_two_enterprises_are_seen_ahead_and_written_together(world: World) -> None:
    store = await world.open()
    await known(store, "0367", "0400")
    keys = {of: ["channel:1.1"] for of in ("0367", "0400")}
    ahead = (await store.append([event("1.1", enterprise=of) for of in keys], keys)).ahead
    async with store.plan(now=NOW, limit=10, ahead=ahead) as batch:
        assert batch is not None
        assert {part.enterprise: len(part.events) for part in batch.parts} == {"0367": 1, "0400": 1}
        found = await batch.find(keys)
        assert {of: [call.enterprise for call, _ in some] for of, some in found.items()} == {of: [of] for of in keys}
        await batch.commit({part.enterprise: Planned(done={one.id: 1 for one in part.events}) for part in batch.parts})
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is None


@conforms
async def test_of_a_repetition_nothing_is_seen_ahead(world: World) -> None:
    store = await world.open()
    await known(store)
    stored = await store.append([event("1.1"), event("1.1"), event("1.2"), event("1.1", enterprise="0400")], AHEAD)
    assert stored.new == [True, False, True, True]
    assert stored.ahead is not None
    assert {of: [one.unique_id for _, one in some] for of, some in stored.ahead.events.items()} == {
        "0367": ["1.1", "1.2"],
        "0400": ["1.1"],
    }
    again = await store.append([event("1.1")], AHEAD)
    assert again.new == [False]
    async with plan_one(store, now=NOW, limit=1, ahead=again.ahead) as batch:
        assert batch is not None
        ids = [number for number, _ in stored.ahead.events["0367"]]
        assert [one.id for one in batch.events] in ([number] for number in ids)


@conforms
async def test_planners_side_by_side_lose_nothing_of_a_call_whatever_they_saw_ahead(world: World) -> None:
    """Each event adds one to its call: what a planner adds to is what the one before it left."""
    stores = [await world.open() for _ in range(2)]
    numbers = ("0367", "0400")
    await known(stores[0], *numbers)
    n_ahead = n_overtaken = 0

    async def plan_all(batch: Batch) -> None:
        nonlocal n_overtaken
        found = await batch.find({part.enterprise: ["channel:1.1"] for part in batch.parts})
        await asyncio.sleep(0)
        decided = {}
        for part in batch.parts:
            (call, _) = found[part.enterprise][0]
            more = msgspec.structs.replace(call, version=call.version + len(part.events))
            row = msgspec.structs.replace(call_row(1, enterprise=part.enterprise), facts=more)
            decided[part.enterprise] = Planned(calls=[row], done={one.id: 1 for one in part.events})
        try:
            await batch.commit(decided)
        except OvertakenError:
            n_overtaken += 1

    async def host(store: Store, of: str) -> None:
        nonlocal n_ahead
        for _ in range(20):
            ahead = (await store.append([event(enterprise=of)], {of: ["channel:1.1"]})).ahead
            async with store.plan(now=NOW, limit=10, ahead=ahead) as batch:
                if batch is not None:
                    n_ahead += bool(ahead and ahead.versions)
                    await plan_all(batch)

    async def planner(store: Store) -> None:
        for _ in range(20):
            async with store.plan(now=NOW, limit=3, width=2) as batch:
                if batch is not None:
                    await plan_all(batch)
            await asyncio.sleep(0.002)

    await asyncio.gather(*(host(store, of) for store in stores for of in numbers), *map(planner, stores))
    while True:
        async with stores[0].plan(now=NOW, limit=100, width=2) as batch:
            if batch is None:
                break
            await plan_all(batch)
    for of in numbers:
        async with plan_one(stores[0], now=NOW, limit=1) as batch:
            assert batch is None
        await stores[0].append([event(enterprise=of)])
        async with plan_one(stores[0], now=NOW, limit=1) as batch:
            assert batch is not None
            [(call, _)] = await batch.find(["channel:1.1"])
            assert call.version == 1 + 2 * 20
            await batch.commit(Planned(done={one.id: 1 for one in batch.events}))
    assert n_ahead
    assert n_overtaken


# absorbed calls


@conforms
async def test_an_absorbed_call_leaves_its_keys_and_trace_to_the_survivor(world: World) -> None:
    store = await world.open()
    await plan(store, calls=[call_row(1, "channel:1.1", timer_at=NOW + S)], cards=[card_row(1)])
    await plan(store, calls=[call_row(2, "channel:1.2", timer_at=NOW + S)], skips=[action(2, Op.SKIP)])
    await plan(store, absorbed={1: 2}, calls=[call_row(2, "channel:1.2")])
    assert await find(store, "channel:1.1") == {2: {"channel:1.1"}}
    await plan(store, absorbed={2: 3}, calls=[call_row(3, "channel:1.3")])
    assert await find(store, "channel:1.1", "channel:1.2") == {3: {"channel:1.1", "channel:1.2"}}
    async with plan_one(store, now=NOW + 5 * S, limit=10) as batch:
        assert batch is None or list(batch.due) == []
    for uid in ("1.1", "1.2", "1.3"):
        traced = await store.trace_of("0367", uid)
        assert [record.item.op for record in traced if isinstance(record.item, Action)] == [Op.SKIP]


@conforms
async def test_events_of_an_absorbed_call_are_in_the_survivors_trace(world: World) -> None:
    store = await world.open()
    await store.append([event("1.1"), event("1.2")])
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        one, two = (given.id for given in batch.events)
        rows = [call_row(one, "channel:1.1"), call_row(two, "channel:1.2")]
        await batch.commit(Planned(calls=rows, done={one: one, two: two}))
    await plan(store, absorbed={two: one}, calls=[call_row(one)])
    assert [record.item.id for record in await store.trace_of("0367", "1.2")] == [one, two]


@conforms
async def test_visible_messages_of_an_absorbed_call_pass_to_the_survivors_card(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1), card_row(1, 42)])
    claims = await claim(store)
    await claim(store, done=[progress(one, shown(10 + one.card.chat_id)) for one in claims], limit=0)
    await plan(store, calls=[call_row(2)], cards=[card_row(2)], absorbed={1: 2})
    assert await visible(store, 2) == {41: [51], 42: [52]}
    assert await visible(store, 1) == {}
    claims = await claim(store)
    assert {one.card.key for one in claims} == {("0367", 2, 41), ("0367", 2, 42)}
    assert {one.card.shown for one in claims} == {(shown(51),), (shown(52),)}
    assert {one.facts.id for one in claims} == {2}


@conforms
async def test_a_report_on_a_card_whose_call_was_absorbed_meanwhile_reaches_the_survivor(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1), card_row(1, 42)])
    in_hand = await claim(store)
    await plan(store, calls=[call_row(2)], cards=[card_row(2, version=4)], absorbed={1: 2})
    busy = [(BOT, 41), (BOT, 42)]
    assert await claim(store, busy=busy) == []
    half_way = [progress(one, shown(7), released=False, actions=(action(1, message_id=7),)) for one in in_hand]
    assert await claim(store, done=half_way, busy=busy) == []
    done = [progress(one, shown(7), shown(8, Stage.DIAL)) for one in in_hand]
    claims = await claim(store, done=done)
    assert [[one.message_id for one in each.card.shown] for each in claims] == [[7, 8], [7, 8]]
    assert {each.card.call_id for each in claims} == {2}
    assert not any(each.ambiguous for each in claims)


@conforms
async def test_reports_that_come_together_on_an_absorbed_card_all_count(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1)])
    [first] = await claim(store)
    await claim(store, done=[progress(first, shown(5), retry_at=NOW)], limit=0)
    [in_hand] = await claim(store)
    await plan(store, calls=[call_row(2)], cards=[card_row(2)], absorbed={1: 2})
    deleted = progress(in_hand, shown(6), released=False, actions=(action(1, Op.DELETE, 5),))
    [again] = await claim(store, done=[deleted, progress(in_hand, shown(6), shown(7))])
    assert [one.message_id for one in again.card.shown] == [6, 7]


@conforms
async def test_a_card_in_hand_keeps_what_it_gains_from_an_absorbed_call(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1)])
    [old] = await claim(store)
    await claim(store, done=[progress(old, shown(5))], limit=0)
    await plan(store, cards=[card_row(2)])
    [in_hand] = await claim(store)
    assert in_hand.card.call_id == 2
    await plan(store, calls=[call_row(2)], absorbed={1: 2})
    [again] = await claim(store, done=[progress(in_hand, shown(6))])
    assert sorted(one.message_id for one in again.card.shown) == [5, 6]


@conforms
async def test_a_lost_send_of_an_absorbed_call_makes_the_survivors_card_ambiguous(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1, stage=Stage.DIAL)])
    await claim(store)
    await plan(store, calls=[call_row(2)], cards=[card_row(2, stage=Stage.HANGUP)], absorbed={1: 2})
    heir = await world.open()
    assert await heir.hold_leases("a", [BOT], ttl_s=30) == {BOT: 2}
    [taken] = await claim(heir, 2)
    assert (taken.card.call_id, taken.ambiguous, taken.card.claimed_stage) == (2, True, Stage.DIAL)


@conforms
async def test_a_lost_send_is_not_taken_for_the_message_of_an_absorbed_call(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1)])
    [old] = await claim(store)
    await claim(store, done=[progress(old, shown(5))], limit=0)
    await plan(store, cards=[card_row(2)])
    [lost] = await claim(store)
    await plan(store, calls=[call_row(2)], absorbed={1: 2})
    heir = await world.open()
    await heir.hold_leases("a", [BOT], ttl_s=30)
    [taken] = await claim(heir, 2)
    assert [(one.message_id, one.stage) for one in taken.card.shown] == [(5, old.card.stage), (0, old.card.stage)]
    assert taken.card.shown[1].sent_at == lost.card.claimed_at
    await heir.release_leases("a")
    await store.hold_leases("b", [BOT], ttl_s=30)
    [again] = await claim(store, 3)
    assert [one.message_id for one in again.card.shown].count(0) == 2, "the one that took it over may have sent, too"


# cards


@conforms
async def test_a_cards_version_grows_with_every_write(world: World) -> None:
    store = await owner(world)
    for given, kept in [(3, 3), (2, 4), (9, 9)]:
        await plan(store, calls=[call_row(1)], cards=[card_row(1, version=given)])
        [one] = await claim(store)
        assert one.card.version == kept


@conforms
async def test_a_card_is_claimed_as_it_was_planned(world: World) -> None:
    store = await owner(world)
    row = card_row(1, stage=Stage.HANGUP, urgency=Urgency.MISSED, replaces=[Stage.START, Stage.BRIDGE])
    await plan(store, calls=[call_row(1)], cards=[row])
    [one] = await claim(store)
    assert one.facts == facts(1)
    assert one.card.claimed_fence == 1
    assert one.card.claimed_stage is Stage.HANGUP
    wanted = msgspec.structs.asdict(row)
    del wanted["fence"]
    assert {name: getattr(one.card, name) for name in wanted} == wanted


@conforms
async def test_a_commit_claims_as_exchange_would(world: World) -> None:
    """What the commit answers is in hand: reported like any claim, and nobody else's until then."""
    store = await owner(world)
    row = card_row(1, stage=Stage.DIAL, replaces=[Stage.START], fence=1)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [before] = await claim(store)
    message = shown(5)
    await claim(store, done=[progress(before, message)])
    [one] = await plan_in_hand(store, row)
    assert one.facts == facts(1)
    assert (one.card.claimed_fence, one.card.claimed_stage, one.card.claimed_at) == (1, Stage.DIAL, NOW)
    assert (one.card.stage, one.card.replaces, one.card.shown) == (Stage.DIAL, {Stage.START}, (message,))
    assert not one.ambiguous
    assert await claim(store, busy=[(BOT, CHAT)]) == []
    await claim(store, done=[progress(one, message, shown(6))])
    assert await claim(store) == []
    assert await visible(store, 1) == {CHAT: [5, 6]}


@conforms
async def test_a_claim_whose_commit_nobody_heard_of_is_handed_out_again(world: World) -> None:
    store = await owner(world)
    await plan_in_hand(store, card_row(1, fence=1))
    [one] = await claim(store)
    assert not one.ambiguous


@conforms
async def test_a_claim_of_a_commit_is_in_doubt_when_its_process_ends(world: World) -> None:
    store = await owner(world)
    await plan_in_hand(store, card_row(1, stage=Stage.BRIDGE, fence=1))
    await store.release_leases("a")
    other = await world.open()
    assert await other.hold_leases("b", [BOT], ttl_s=30) == {BOT: 2}
    await plan(other, calls=[call_row(1)], cards=[card_row(1, stage=Stage.HANGUP)])
    [one] = await claim(other, 2)
    assert one.ambiguous
    assert one.card.claimed_stage is Stage.BRIDGE


@conforms
@pytest.mark.parametrize("why", ["no fence", "old fence", "not due", "limited", "suspended", "bot limited", "in hand", "free"])
async def test_a_commit_claims_nothing_that_exchange_would_not(world: World, why: str) -> None:
    store = await owner(world)
    if why == "in hand":
        await plan(store, calls=[call_row(1)], cards=[card_row(1)])
        assert await claim(store)
    limits = {
        "limited": ChatLimit(bot_id=BOT, chat_id=CHAT, until=NOW + 60 * S, reason="flood"),
        "suspended": ChatLimit(bot_id=BOT, chat_id=CHAT, until=None, reason="blocked"),
        "bot limited": ChatLimit(bot_id=BOT, chat_id=0, until=None, reason="token"),
    }
    if why in limits:
        await store.limit_chat(limits[why])
    fence = {"no fence": None, "old fence": 7}.get(why, 1)
    due_at = NOW + S if why == "not due" else NOW
    claims = await plan_in_hand(store, card_row(1, stage=Stage.DIAL, fence=fence, due_at=due_at))
    assert len(claims) == (why == "free")


@conforms
async def test_one_chat_that_cannot_be_claimed_keeps_no_other(world: World) -> None:
    store = await owner(world)
    await store.limit_chat(ChatLimit(bot_id=BOT, chat_id=42, until=None, reason="blocked"))
    claims = await plan_in_hand(store, card_row(1, 41, fence=1), card_row(1, 42, fence=1), card_row(2, 43, fence=1))
    assert sorted(one.card.chat_id for one in claims) == [41, 43]


@conforms
async def test_a_card_that_changes_its_bot_is_claimed_anew(world: World) -> None:
    store = await owner(world)
    assert await store.hold_leases("c", [BOT + 1], ttl_s=30) == {BOT + 1: 1}
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    assert await claim(store)
    [one] = await plan_in_hand(store, card_row(1, bot=BOT + 1, fence=1))
    assert (one.card.bot_id, one.card.shown, one.ambiguous) == (BOT + 1, (), False)


@conforms
async def test_the_most_urgent_card_of_each_free_chat_is_claimed(world: World) -> None:
    store = await owner(world)
    rows = [
        card_row(1, 41, urgency=Urgency.REST),
        card_row(2, 41, urgency=Urgency.MISSED, due_at=NOW - S),
        card_row(3, 42, urgency=Urgency.LIVE),
        card_row(4, 42, urgency=Urgency.LIVE, due_at=NOW - S),
        card_row(5, 43),
        card_row(6, 44, due_at=NOW + S),
        card_row(7, 45, bot=999),
    ]
    await plan(store, calls=[call_row(number) for number in range(1, 8)], cards=rows)
    assert [one.card.call_id for one in await claim(store, limit=1)] == [2]
    busy = [(BOT, 43), (999, 41)]
    assert [one.card.call_id for one in await claim(store, busy=busy, limit=2)] == [2, 4]
    assert [one.card.call_id for one in await claim(store, busy=[(BOT, 41), (BOT, 42), (BOT, 43)])] == []
    assert await claim(store, limit=0) == []


@conforms
async def test_no_more_cards_of_a_bot_are_claimed_than_it_may_send(world: World) -> None:
    store = await world.open()
    leases = await store.hold_leases("a", [BOT, BOT + 1], ttl_s=30)
    rows = [card_row(number, 40 + number, urgency=urgency) for number, urgency in enumerate(Urgency, 1)]
    other = card_row(len(rows) + 1, 60, bot=BOT + 1)
    await plan(store, calls=[call_row(row.call_id) for row in (*rows, other)], cards=[*rows, other])

    async def claimed(at_most: dict[int, int]) -> set[int]:
        claims = await store.exchange([], leases=leases, busy=[], limit=10, now=NOW, at_most=at_most)
        return {claim.card.call_id for claim in claims}

    assert await claimed({BOT: 0, BOT + 1: 0}) == set()
    most_urgent = sorted(rows, key=lambda row: row.urgency)[:2]
    assert await claimed({BOT: 2}) == {row.call_id for row in (*most_urgent, other)}


@conforms
async def test_a_report_ends_what_is_due_unless_the_planner_changed_it(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [first] = await claim(store)
    assert await claim(store, done=[progress(first, shown(1), released=False)], busy=[(BOT, CHAT)]) == []
    await plan(store, cards=[card_row(1, stage=Stage.DIAL)])
    [second] = await claim(store, done=[progress(first, shown(1), attempts=2)])
    assert (second.card.stage, second.card.shown, second.card.attempts) == (Stage.DIAL, (shown(1),), 2)
    assert not second.ambiguous
    assert await claim(store, done=[progress(second, shown(2, Stage.DIAL))]) == []
    assert await visible(store, 1) == {CHAT: [2]}


@conforms
async def test_a_report_can_ask_for_another_try(world: World) -> None:
    store = await owner(world)
    soon = datetime.now(UTC) + 60 * S
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [first] = await claim(store)
    assert await claim(store, done=[progress(first, retry_at=soon, attempts=1)]) == []
    assert await store.next_due([BOT]) == soon
    assert await store.next_due([999]) is None
    [again] = await claim(store, now=soon)
    assert again.card.attempts == 1
    await claim(store, done=[progress(again)], limit=0)
    assert await store.next_due([BOT]) is None


@conforms
async def test_a_claim_that_never_arrived_is_handed_out_again(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    await claim(store)
    await plan(store, cards=[card_row(1, stage=Stage.DIAL)])
    [again] = await claim(store)
    assert (again.ambiguous, again.card.claimed_stage) == (False, Stage.DIAL)


@conforms
async def test_a_card_in_the_hands_of_an_earlier_owner_is_taken_over_as_ambiguous(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [lost] = await claim(store)
    await plan(store, cards=[card_row(1, stage=Stage.DIAL)])
    heir = await world.open()
    await heir.hold_leases("a", [BOT], ttl_s=30)
    assert await claim(store, 1) == []
    [taken] = await claim(heir, 2)
    assert (taken.ambiguous, taken.card.stage, taken.card.claimed_stage) == (True, Stage.DIAL, Stage.START)
    late = progress(lost, shown(1), actions=(action(1, message_id=1),))
    assert await claim(store, 1, done=[late]) == []
    assert await visible(store, 1) == {CHAT: [1]}  # it is there, whoever sent it
    assert [record.item.message_id for record in await store.trace("", limit=99) if isinstance(record.item, Action)] == [1]
    [again] = await claim(heir, 2)  # the answer was lost: still ambiguous
    assert (again.ambiguous, again.card.claimed_stage) == (True, Stage.START)
    assert await claim(heir, 2, done=[progress(again, shown(2, Stage.DIAL))]) == []
    await plan(store, cards=[card_row(1, stage=Stage.HANGUP)])
    [clear] = await claim(heir, 2)
    assert (clear.ambiguous, clear.card.shown) == (False, (shown(2, Stage.DIAL),))


@conforms
async def test_a_card_that_changes_its_bot_starts_anew(world: World) -> None:
    store = await owner(world)
    await store.hold_leases("a", [BOT, 800], ttl_s=30)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [first] = await claim(store)
    await claim(store, done=[progress(first, shown(1), released=False)], busy=[(BOT, CHAT)])
    await plan(store, cards=[card_row(1, bot=800)])
    assert await claim(store, done=[progress(first, shown(1), shown(2))]) == []
    [anew] = await store.exchange([], leases={800: 1}, busy=[], limit=9, now=NOW)
    assert (anew.card.shown, anew.ambiguous) == ((), False)


# leases and limits


@conforms
async def test_a_lease_is_one_nodes_until_it_runs_out(world: World) -> None:
    one, other = await world.open(), await world.open()
    assert await one.hold_leases("a", [BOT, 701], ttl_s=30) == {BOT: 1, 701: 1}
    assert await one.hold_leases("a", [BOT, 701], ttl_s=0.0) == {BOT: 1, 701: 1}
    assert await one.hold_leases("a", [BOT], ttl_s=30) == {BOT: 1}
    taken: dict[int, int] = {}
    async with asyncio.timeout(5):
        while not taken:
            taken = dict(await other.hold_leases("b", [BOT, 701], ttl_s=30))
    assert taken == {701: 2}
    assert await one.hold_leases("a", [BOT, 701], ttl_s=30) == {BOT: 1}
    await one.release_leases("a")
    assert await other.hold_leases("b", [BOT, 701], ttl_s=30) == {BOT: 2, 701: 2}
    assert await one.hold_leases("a", [], ttl_s=30) == {}


@conforms
async def test_a_node_that_restarts_gets_its_leases_at_once_with_a_new_fence(world: World) -> None:
    before = await owner(world)
    after = await world.open()
    assert await after.hold_leases("a", [BOT], ttl_s=30) == {BOT: 2}
    assert await after.hold_leases("a", [BOT], ttl_s=30) == {BOT: 2}
    await plan(before, calls=[call_row(1)], cards=[card_row(1)])
    assert await claim(before, 1) == []
    assert len(await claim(after, 2)) == 1


@conforms
async def test_everybody_sees_which_bots_are_leased_by_anybody(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.hold_leases("a", [BOT], ttl_s=30)
    await one.hold_leases("a", [701], ttl_s=-1)
    assert await other.leased([BOT, 701, 702]) == {BOT}
    await one.release_leases("a")
    assert await other.leased([BOT, 701, 702]) == frozenset()


@conforms
async def test_nothing_is_claimed_with_a_lease_that_ran_out(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    await store.hold_leases("a", [BOT], ttl_s=-1)
    assert await claim(store) == []


@conforms
async def test_a_limited_chat_or_bot_takes_nothing(world: World) -> None:
    store = await owner(world)
    now = datetime.now(UTC)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1, 41), card_row(2, 42)])
    chat = ChatLimit(bot_id=BOT, chat_id=41, until=now + 60 * S, reason="flood")
    bot = ChatLimit(bot_id=BOT, chat_id=0, until=None, reason="token")
    await store.limit_chat(chat)
    assert await store.next_due([BOT]) == chat.until
    assert [one.card.chat_id for one in await claim(store, now=now)] == [42]
    await store.limit_chat(bot)
    assert await claim(store, now=now) == []
    assert await store.limits() == [bot, chat]
    assert await store.lift_limit(BOT, 0)
    assert not await store.lift_limit(BOT, 0)
    assert [one.card.chat_id for one in await claim(store, now=now + 61 * S)] == [41, 42]
    await store.limit_chat(msgspec.structs.replace(chat, until=now - S))
    assert await store.limits() == []


@conforms
async def test_sent_ids_are_those_that_share_the_chats_counter(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [one] = await claim(store)
    supergroup, group = -1001234567890, -55
    did = (
        action(1, message_id=3, chat=42),
        action(1, message_id=2),
        action(1, message_id=9, chat=supergroup),
        action(1, message_id=4, chat=group, at=NOW + 60 * S),
        action(1, Op.EDIT, message_id=5),
        action(1, message_id=0),
        action(1, message_id=6, at=NOW - timedelta(hours=2)),
        msgspec.structs.replace(action(1, message_id=7), outcome="refused"),
        msgspec.structs.replace(action(1, message_id=8), bot_id=999),
    )
    await claim(store, done=[progress(one, actions=did)], limit=0)
    assert await store.sent_ids(BOT, CHAT, NOW) == [(2, NOW), (3, NOW), (4, NOW + 60 * S)]
    assert await store.sent_ids(BOT, supergroup, NOW) == [(9, NOW)]


@conforms
async def test_a_chat_that_moves_takes_its_subscription_and_cards_along(world: World) -> None:
    store = await owner(world)
    await store.put_enterprise(enterprise("0367"))
    await store.add_subscriber("0367", Chat(id=-55, name="team"))
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1, -55), card_row(2, -55)])
    [one] = await claim(store)
    await claim(store, done=[progress(one, shown(1))], limit=0)
    [two] = await claim(store)
    await store.move_chat(BOT, -55, -1001)
    await claim(store, done=[progress(two, shown(9), actions=(action(2, chat=-55),))], limit=0)
    assert (await store.directory()).chats_of("0367") == (Chat(id=-1001, name="team"),)
    assert await visible(store, one.card.call_id) == {-1001: []}
    [again] = await claim(store)
    assert (again.card.key, again.card.shown, again.ambiguous) == (("0367", two.card.call_id, -1001), (), False)


# sinks


@conforms
async def test_the_trace_has_events_skips_and_actions_in_commit_order(world: World) -> None:
    store = await owner(world)
    await store.append([event("1.1"), event("1.2")])
    await plan(store, calls=[call_row(1)], cards=[card_row(1)], skips=[action(1, Op.SKIP)])
    [one] = await claim(store)
    sent = msgspec.structs.replace(action(1, message_id=7), text="<b>x</b>", reason="r", took_s=0.5)
    await claim(store, done=[progress(one, shown(7), actions=(sent, action(1, Op.DELETE, 6)))], limit=0)
    await store.append([event("1.3")])
    records = await store.trace("", limit=100)
    said = [record.item.op if isinstance(record.item, Action) else record.item.unique_id[:3] for record in records]
    assert said == ["1.1", "1.2", "170", Op.SKIP, Op.SEND, Op.DELETE, "1.3"]
    cursors = [record.cursor for record in records]
    assert cursors == sorted(set(cursors))
    assert len({len(cursor) for cursor in cursors}) == 1
    told = [record.item for record in records if isinstance(record.item, Action)]
    assert msgspec.structs.replace(told[1], id=0) == sent
    paged: list[str] = []
    while page := await store.trace(paged[-1] if paged else "", limit=2):
        paged += [record.cursor for record in page]
    assert paged == cursors


@conforms
async def test_a_sinks_cursor_is_kept(world: World) -> None:
    one, other = await world.open(), await world.open()
    assert await one.cursor("tracer") == ""
    await one.save_cursor("tracer", "5")
    await one.save_cursor("tracer", "7")
    assert await other.cursor("tracer") == "7"
    assert await other.cursor("metrics") == ""


@conforms
async def test_a_sink_is_moved_only_from_where_it_is_believed_to_be(world: World) -> None:
    store = await world.open()
    assert not await store.save_cursor("tracer", "5", held="4")
    assert await store.save_cursor("tracer", "5", held="")
    assert not await store.save_cursor("tracer", "6", held="")
    assert await store.save_cursor("tracer", "6", held="5")
    assert await store.save_cursor("tracer", "2")
    assert not await store.save_cursor("tracer", "7", held="6")
    assert await store.cursor("tracer") == "2"


@conforms
async def test_what_waits_behind_a_place_is_known_by_the_time_of_the_first(world: World) -> None:
    store = await world.open()
    assert await store.waiting_since("") is None
    await store.append([event("1.1", at=NOW - 60 * S)])
    await store.append([event("1.2", at=NOW)])
    assert await store.waiting_since("") == NOW - 60 * S
    first, second = await store.trace("", limit=9)
    assert await store.waiting_since(first.cursor) == NOW
    assert await store.waiting_since(second.cursor) is None


@conforms
async def test_the_trace_of_a_call_is_its_enterprises_own_and_oldest_first(world: World) -> None:
    store = await world.open()
    for of in ("0367", "0400"):
        await store.append([event("1.1", enterprise=of, at=NOW + S), event("1.1", enterprise=of, at=NOW - 9 * S)])
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            first = batch.events[0].id
            await batch.commit(
                Planned(
                    calls=[call_row(first, "channel:1.1", enterprise=batch.enterprise)],
                    done={one.id: first for one in batch.events},
                    skips=[action(first, Op.SKIP, enterprise=batch.enterprise)],
                )
            )
    traced = await store.trace_of("0400", "1.1")
    assert {record.item.enterprise for record in traced} == {"0400"}
    assert [getattr(record.item, "received_at", NOW) for record in traced] == [NOW - 9 * S, NOW, NOW + S]
    await store.append([event("2.1")])
    assert len(await store.trace_of("0367", "2.1")) == 1
    assert await store.trace_of("0400", "2.1") == []


# administration and upkeep


def enterprise(number: str, token: str = "", bot: str = f"{BOT}:secret") -> Enterprise:
    return Enterprise(number=number, name="Acme", token=Secret(token or f"token {number}"), bot_token=Secret(bot))


@conforms
async def test_the_directory_is_what_was_put_in_and_its_mark_changes_with_it(world: World) -> None:
    store = await world.open()
    marks = [(await store.directory()).mark]

    async def changed() -> bool:
        marks.append((await store.directory()).mark)
        return marks[-1] != marks[-2]

    await store.put_enterprise(enterprise("0367"))
    assert await changed()
    assert not await changed()
    assert await store.add_subscriber("0367", Chat(id=41, name="Anna"))
    assert await changed()
    assert not await store.add_subscriber("0367", Chat(id=41))
    assert not await changed()
    assert not await store.add_subscriber("0367", Chat(id=41, name="Anna B."))
    assert await changed()
    await store.put_enterprise(enterprise("0400", bot="701:other"))
    await store.put_enterprise(enterprise("0500"))
    directory = await store.directory()
    other = enterprise("0400", bot="701:other")
    assert directory.enterprises == {"0367": enterprise("0367"), "0400": other, "0500": enterprise("0500")}
    assert directory.chats_of("0367") == directory.chats_of("0500") == (Chat(id=41, name="Anna B."),)
    assert directory.chats_of("0400") == ()
    assert await store.remove_subscriber("0500", 41)
    assert not await store.remove_subscriber("0367", 41)
    assert await changed()
    await store.put_enterprise(enterprise("0367", bot="701:other"))
    assert (await store.directory()).enterprises["0367"].bot_id == 701


@conforms
async def test_a_new_token_of_a_bot_is_that_of_all_its_enterprises_and_keeps_its_subscribers(world: World) -> None:
    store = await world.open()
    new = f"{BOT}:new"
    for one in (enterprise("0367"), enterprise("0400"), enterprise("0500", bot="701:other")):
        await store.put_enterprise(one)
    await store.add_subscriber("0400", Chat(id=41, name="Anna"))
    await store.add_subscriber("0500", Chat(id=42))
    await store.put_enterprise(enterprise("0367", bot=new))
    directory = await store.directory()
    assert {number: one.bot_token for number, one in directory.enterprises.items()} == {
        "0367": Secret(new),
        "0400": Secret(new),
        "0500": Secret("701:other"),
    }
    assert directory.chats_of("0367") == directory.chats_of("0400") == (Chat(id=41, name="Anna"),)
    assert directory.chats_of("0500") == (Chat(id=42),)
    await store.put_enterprise(enterprise("0367", bot="702:another"))
    assert (await store.directory()).chats_of("0367") == (), "another bot has subscribers of its own"
    assert (await store.directory()).chats_of("0400") == (Chat(id=41, name="Anna"),)


@conforms
async def test_what_cannot_be_in_the_directory_is_refused_without_a_secret(world: World) -> None:
    store = await world.open()
    await store.put_enterprise(enterprise("0367", "s3cret"))
    with pytest.raises(ConfigError, match="0367") as refused:
        await store.put_enterprise(enterprise("0400", "s3cret"))
    assert "s3cret" not in str(refused.value)
    await store.put_enterprise(enterprise("0367", "s3cret"))
    with pytest.raises(ConfigError, match="0999"):
        await store.add_subscriber("0999", Chat(id=1))
    assert not await store.remove_subscriber("0999", 1)


@conforms
async def test_calls_are_forgotten_after_the_retention(world: World) -> None:
    store = await owner(world)
    old = NOW - timedelta(days=20)
    rows = [call_row(1, "channel:1.1", started_at=old, ended_at=old), call_row(2, "channel:1.2", started_at=old, ended_at=NOW)]
    await plan(store, calls=[*rows, call_row(3, "channel:1.3")], cards=[card_row(1, 41), card_row(2, 42), card_row(3, 43)])
    await store.keep_house(now=NOW, retention_days=14)
    assert await find(store, "channel:1.1", "channel:1.2", "channel:1.3") == {2: {"channel:1.2"}, 3: {"channel:1.3"}}
    assert [one.card.call_id for one in await claim(store)] == [2, 3]
    await store.ping()


# Names and history


def of_client(call: int, at: datetime, *, result: str = "missed", direction: str = "incoming", **more: Any) -> CallRow:
    told = {"client": "375296254070", "direction": direction, "result": result} | more
    return msgspec.structs.replace(call_row(call, started_at=at, ended_at=at), **told)


@conforms
async def test_names_are_kept_by_enterprise_and_table_and_forgotten_when_empty(world: World) -> None:
    store = await world.open()
    await store.put_names("0367", "extensions", {"150": "Иванов", "151": "Петров\0"})
    await store.put_names("0367", "customers", {"150": "Сидоров"})
    await store.put_names("0368", "extensions", {"150": "Чужой"})
    assert (await store.names("0367", "extensions", ["150", "152"])) == {"150": "Иванов"}
    await store.put_names("0367", "extensions", {"150": "Козлов", "151": ""})
    assert (await store.names("0367", "extensions", ["150", "151"])) == {"150": "Козлов"}
    assert (await store.names("0367", "customers", ["150"])) == {"150": "Сидоров"}
    assert (await store.names("0367", "lines", ["150"])) == {}
    assert (await store.names("0367", "lines", [])) == {}


@conforms
async def test_the_history_of_a_client_is_his_earlier_incoming_calls_in_this_enterprise(world: World) -> None:
    store = await owner(world)
    rows = [
        of_client(1, NOW - 90 * S),
        of_client(2, NOW - 60 * S, result="answered"),
        of_client(3, NOW - 50 * S, direction="outgoing"),
        of_client(4, NOW - 40 * S, client="375296254071"),
        of_client(5, NOW),
    ]
    await plan(store, calls=rows)
    await plan(store, "0368", calls=[msgspec.structs.replace(of_client(6, NOW - 5 * S), facts=facts(6, "0368"))])
    found = await store.history("0367", "375296254070", before=NOW)
    assert found == History(n_calls=2, last_at=NOW - 60 * S, last_answered=True)
    assert await store.history("0367", "375296254079", before=NOW) is None
    assert await store.history("0367", "", before=NOW) is None
