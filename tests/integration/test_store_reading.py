"""What every store has to answer about calls: the contract of callgram.reading, clause by clause, over every implementation."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callgram.calls.facts import Facts
from callgram.calls.story import Direction, Result
from callgram.cards import Shown, Stage, Urgency
from callgram.context import Chat, Enterprise, Secret
from callgram.events import Event, Kind
from callgram.reading import CallFilter
from callgram.store import CallRow, CardRow, NewEvent, Planned, Progress, Store
from callgram.testing.alone import plan_one
from callgram.testing.memory import MemoryStore
from callgram.trace import Action, Op

NOW = datetime.now(UTC).replace(microsecond=0)
S = timedelta(seconds=1)
BOT, CHAT = 700, 41
_numbers = itertools.count(1)


@pytest.fixture(params=["memory", "postgres"])
def dsn(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres_dsn") if request.param == "postgres" else None


def reads(test: Callable[[Store], Awaitable[None]]) -> Callable[[str | None], None]:
    @functools.wraps(test)
    def run(dsn: str | None) -> None:
        async def play() -> None:
            store: Any = MemoryStore()
            if dsn is not None:
                from callgram_postgres.store import connect

                store = await connect(dsn)
            try:
                await test(store)
            finally:
                await store.close()

        asyncio.run(play())

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for the argument of the test itself
    return run


async def planned(
    store: Store,
    *unique_ids: str,
    enterprise: str = "0367",
    at: datetime = NOW,
    client: str = "375296254070",
    extensions: tuple[str, ...] = ("150",),
    direction: Direction = Direction.INCOMING,
    result: Result = Result.ANSWERED,
    ended: bool = True,
    card: bool = True,
    linked: str = "",
) -> int:
    """A call with one dial event on each of ``unique_ids``, as the planner leaves it; answers its id."""
    news = [
        NewEvent(
            enterprise=enterprise,
            kind=Kind.DIAL,
            unique_id=uid,
            received_at=at + place * S,
            digest=f"{next(_numbers)}".encode(),
            repeat_s=0.0,
            body=f'{{"Token": "t", "UniqueId": "{uid}"}}'.encode(),
        )
        for place, uid in enumerate(unique_ids)
    ]
    await store.append(news)
    while True:  # other enterprises may have something to plan, too
        async with plan_one(store, now=at, limit=100) as batch:
            assert batch is not None
            if batch.enterprise != enterprise:
                continue
            call = batch.events[0].id
            facts = Facts(id=call, enterprise=enterprise, first_at=at, last_at=at, version=len(news))
            keys = {f"channel:{uid}" for uid in (*unique_ids, linked) if uid} | {"pair:150:375296254070"}
            row = CallRow(
                facts=facts,
                unique_id=unique_ids[0],
                started_at=at,
                ended_at=at + 9 * S if ended else None,
                timer_at=None,
                keys=frozenset(keys),
                direction=str(direction),
                result=str(result),
                client=client,
                extensions=extensions,
            )
            cards = [card_of(call)] if card else []
            done = {event.id: call for event in batch.events}
            await batch.commit(Planned(calls=[row], cards=cards, skips=[skip(call, enterprise)], done=done))
            return call


def card_of(call: int) -> CardRow:
    return CardRow(
        call_id=call,
        chat_id=CHAT,
        bot_id=BOT,
        stage=Stage.HANGUP,
        replaces=frozenset(),
        version=1,
        mode="replace",
        urgency=Urgency.REST,
        due_at=NOW - S,
    )


def skip(call: int, enterprise: str) -> Action:
    return Action(
        at=NOW + 3 * S,
        enterprise=enterprise,
        call_id=call,
        unique_id="1.1",
        chat_id=CHAT,
        bot_id=BOT,
        stage=Stage.START,
        op=Op.SKIP,
        outcome="skipped",
        reason="superseded",
    )


async def show_all(store: Store) -> None:
    """Every card that is due becomes visible."""
    fence = (await store.hold_leases("node", [BOT], ttl_s=30.0))[BOT]
    while claims := await store.exchange([], leases={BOT: fence}, busy=[], limit=10, now=NOW):
        reports = []
        for claim in claims:
            card = claim.card
            shown = Shown(message_id=900 + card.call_id, stage=card.stage, digest="d", sent_at=NOW)
            sent = Action(
                at=NOW + 4 * S,
                enterprise=card.enterprise,
                call_id=card.call_id,
                unique_id="1.1",
                chat_id=CHAT,
                bot_id=BOT,
                stage=card.stage,
                op=Op.SEND,
                message_id=shown.message_id,
                text="hello",
            )
            reports.append(
                Progress(
                    enterprise=card.enterprise,
                    call_id=card.call_id,
                    chat_id=CHAT,
                    bot_id=BOT,
                    fence=fence,
                    version=card.version,
                    shown=(shown,),
                    actions=(sent,),
                )
            )
        await store.exchange(reports, leases={}, busy=[], limit=0, now=NOW)


async def ids(store: Store, **wanted: Any) -> list[int]:
    page = await store.list_calls(CallFilter(**wanted))
    return [one.facts.id for one in page.calls]


@reads
async def test_a_call_is_found_by_any_leg_and_its_linkedid(store: Store) -> None:
    call = await planned(store, "1.1", "1.2", linked="0.9")
    for name in ("1.1", "1.2", "0.9"):
        assert await store.find_calls(["0367", "7000"], name) == [("0367", call)]
    assert await store.find_calls(["0367"], "1.3") == []
    assert await store.find_calls(["0367"], "1.1\0") in ([], [("0367", call)])


@reads
async def test_a_call_of_another_enterprise_is_not_found(store: Store) -> None:
    mine, other = await planned(store, "1.1"), await planned(store, "1.1", enterprise="7000")
    assert await store.find_calls(["0367"], "1.1") == [("0367", mine)]
    assert await store.find_calls([], "1.1") == []
    assert sorted(await store.find_calls(["0367", "7000"], "1.1")) == [("0367", mine), ("7000", other)]
    assert await store.call_file("7000", mine) is None
    assert await store.call_file("0367", other) is None


@reads
async def test_the_file_of_a_call_has_every_record_once_in_order_of_time(store: Store) -> None:
    call = await planned(store, "1.1", "1.2", linked="0.9")
    await planned(store, "1.7")
    await show_all(store)
    file = await store.call_file("0367", call)
    assert file is not None
    told = [item.kind if isinstance(item, Event) else item.op for item in (record.item for record in file.records)]
    assert told == [Kind.DIAL, Kind.DIAL, Op.SKIP, Op.SEND]
    assert (file.facts.id, file.channels, file.absorbed, file.cut) == (call, ("0.9", "1.1", "1.2"), (), False)
    assert [card.shown[0].message_id for card in file.cards] == [900 + call]


@reads
async def test_a_file_is_cut_where_there_are_more_records_than_asked_for(store: Store) -> None:
    call = await planned(store, "1.1", "1.2", "1.3")
    file = await store.call_file("0367", call, limit=2)
    assert file is not None
    assert (len(file.records), file.cut) == (2, True)


@reads
async def test_events_of_its_channels_that_failed_are_in_the_file_with_the_reason(store: Store) -> None:
    call = await planned(store, "1.1")
    bad = NewEvent(
        enterprise="0367", kind=Kind.BRIDGE, unique_id="1.1", received_at=NOW + S, digest=b"bad", repeat_s=0, body=b"{}"
    )
    await store.append([bad])
    async with plan_one(store, now=NOW, limit=9) as batch:
        assert batch is not None
        number = batch.events[0].id
        await batch.commit(Planned(failed={number: "ValueError: no"}))
    file = await store.call_file("0367", call)
    assert file is not None
    assert file.failed == {number: "ValueError: no"}
    assert number in {record.item.id for record in file.records}


@reads
async def test_what_was_posted_again_is_counted_at_its_event(store: Store) -> None:
    """The newest within the window of the repetition, of its enterprise; what repeats nothing that is kept is not counted."""

    def posted(at: datetime, *, digest: bytes = b"same", enterprise: str = "0367", repeat_s: float = 5.0) -> NewEvent:
        return NewEvent(
            enterprise=enterprise,
            kind=Kind.HANGUP,
            unique_id="9.9",
            received_at=at,
            digest=digest,
            repeat_s=repeat_s,
            body=b'{"UniqueId": "9.9"}',
        )

    call = await planned(store, "9.9", at=NOW - 60 * S)
    await store.append([posted(NOW), posted(NOW + 8 * S), posted(NOW, digest=b"other")])
    await store.append([posted(NOW, enterprise="0400")])
    again = [posted(NOW + S), posted(NOW + 2 * S), posted(NOW + 9 * S), posted(NOW + 4 * S)]
    assert (await store.append(again)).new == [False] * 4
    await store.count_repeats([])
    await store.count_repeats([*again[:2], posted(NOW, digest=b"unknown"), posted(NOW + 13 * S)])
    await store.count_repeats(again[2:3])
    await store.count_repeats(again[3:])
    file = await store.call_file("0367", call)
    assert file is not None
    events = [record.item.id for record in file.records if isinstance(record.item, Event)]
    assert file.repeats == {events[1]: 2, events[3]: 2}
    assert len(events) == 4


@reads
async def test_the_file_of_an_absorbed_call_is_that_of_its_survivor(store: Store) -> None:
    first, second = await planned(store, "1.1"), await planned(store, "1.2", at=NOW + 2 * S)
    await store.append(
        [
            NewEvent(
                enterprise="0367",
                kind=Kind.BRIDGE,
                unique_id="1.2",
                received_at=NOW,
                digest=b"x",
                repeat_s=0,
                body=b"{}",
            )
        ]
    )
    async with plan_one(store, now=NOW, limit=9) as batch:
        assert batch is not None
        await batch.commit(Planned(absorbed={second: first}, done={event.id: first for event in batch.events}))
    file = await store.call_file("0367", second)
    assert file is not None
    assert (file.facts.id, file.absorbed, file.channels) == (first, (second,), ("1.1", "1.2"))
    assert len([1 for record in file.records if isinstance(record.item, Event)]) == 3
    assert await ids(store) == [first]


@reads
async def test_calls_are_listed_newest_first_and_by_every_filter(store: Store) -> None:
    old = await planned(store, "1.1", at=NOW - 60 * S, extensions=("150", "151"))
    missed = await planned(store, "1.2", at=NOW - 30 * S, client="375291112233", result=Result.MISSED)
    out = await planned(store, "1.3", direction=Direction.OUTGOING, client="", extensions=("1500",))
    foreign = await planned(store, "2.1", enterprise="7000", at=NOW + S)
    assert await ids(store) == [foreign, out, missed, old]
    assert await ids(store, enterprises=("0367",)) == [out, missed, old]
    assert await ids(store, enterprises=("0367", "8000")) == [out, missed, old]
    assert await ids(store, enterprises=()) == []
    assert await ids(store, since=NOW - 30 * S, until=NOW) == [missed]
    assert await ids(store, number="6254070", enterprises=("0367",)) == [old]
    assert await ids(store, number="375296254070") == [foreign, old]
    assert await ids(store, extension="150") == [foreign, missed, old]
    assert await ids(store, extension="1_0") == []
    assert await ids(store, direction=Direction.OUTGOING) == [out]
    assert await ids(store, result=Result.MISSED) == [missed]


@reads
async def test_nothing_shown_is_a_filter(store: Store) -> None:
    shown = await planned(store, "1.1")
    await show_all(store)
    waiting, without = await planned(store, "1.2", at=NOW + S), await planned(store, "1.3", at=NOW + 2 * S, card=False)
    assert await ids(store, unsent=True) == [without, waiting]
    (first, *_), last = (await store.list_calls(CallFilter())).calls, (await store.list_calls(CallFilter())).calls[-1]
    assert (first.n_chats, first.n_shown) == (0, 0)
    assert (last.facts.id, last.n_chats, last.n_shown) == (shown, 1, 1)


@reads
async def test_pages_follow_one_another_without_loss_or_repetition(store: Store) -> None:
    calls = [await planned(store, f"1.{n}", at=NOW + (n // 3) * S) for n in range(11)]
    for wanted in (CallFilter(), CallFilter(result=Result.ANSWERED), CallFilter(number="254070")):
        seen: list[int] = []
        after = ""
        for _ in range(9):
            page = await store.list_calls(wanted, after=after, limit=2)
            seen += [one.facts.id for one in page.calls]
            after = page.next
            if not after:
                break
        assert seen == sorted(calls, reverse=True)
    with pytest.raises(ValueError, match="no key"):
        await store.list_calls(CallFilter(), after="'; DROP TABLE calls")


@reads
async def test_live_calls_are_those_without_an_end(store: Store) -> None:
    await planned(store, "1.1")
    live = await planned(store, "1.2", ended=False)
    assert [one.facts.id for one in await store.live_calls(None)] == [live]
    assert [one.facts.id for one in await store.live_calls(("0367",))] == [live]
    assert await store.live_calls(("7000",)) == []


@reads
async def test_a_sink_can_go_back_to_a_moment(store: Store) -> None:
    await planned(store, "1.1", at=NOW - 3600 * S)
    await planned(store, "1.2", at=NOW + 60 * S)
    everything = await store.trace("", limit=100)
    middle = await store.cursor_at(NOW + 30 * S)
    later = [record for record in everything if record.cursor > middle]
    assert "1.2" in {record.item.unique_id for record in later if isinstance(record.item, Event)}
    assert "1.1" not in {record.item.unique_id for record in later if isinstance(record.item, Event)}
    assert await store.trace(await store.cursor_at(NOW + 7 * 86_400 * S), limit=9) == []
    await store.save_cursor("tracer", middle)
    assert (await store.cursors())["tracer"] == middle


@reads
async def test_what_a_plugin_keeps_is_its_own(store: Store) -> None:
    await store.keep("details", "key", b"\x00\xff")
    await store.keep("other", "key", b"2")
    assert await store.kept("details") == {"key": b"\x00\xff"}
    assert await store.keep_first("details", "key", b"new") == b"\x00\xff"
    assert await store.keep_first("details", "second", b"new") == b"new"
    await store.keep("details", "key", b"3")
    await store.keep("details", "second", None)
    await store.keep("details", "never there", None)
    assert await store.kept("details") == {"key": b"3"}


@reads
async def test_enterprises_with_odd_names_do_not_meet(store: Store) -> None:
    await store.put_enterprise(
        Enterprise(number="a%", name="", token=Secret("percent-token"), bot_token=Secret(f"{BOT}:x"))
    )
    await store.add_subscriber("a%", Chat(id=CHAT))
    call = await planned(store, "1.1", enterprise="a%")
    assert await ids(store, enterprises=("a%",)) == [call]
    assert await ids(store, enterprises=("ab",)) == []
