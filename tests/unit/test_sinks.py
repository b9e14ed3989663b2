"""Each sink gets the whole trace, in order, at least once, at its own pace."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callgram.errors import StoreError
from callgram.events import Event, Kind
from callgram.sinks import Pace, SinkRunner
from callgram.trace import Record

NOON = datetime(2025, 11, 29, 12, 0, tzinfo=UTC)
NOW_AND_100_S = NOON + timedelta(seconds=100)
QUICK = Pace(poll_s=0.01, gather_s=0.0, batch=3, first_retry_s=0.001, last_retry_s=0.01)


class FakeStore:
    """A trace in memory. ``away``: it cannot be reached; ``saves_fail``: only writing fails."""

    def __init__(self, n_records: int = 0) -> None:
        self.records: list[Record] = []
        self.held_back: list[Record] = []  # committed behind a transaction that still runs
        self.cursors: dict[str, str] = {}
        self.saved: list[tuple[str, str]] = []
        self.n_reads = 0
        self.n_refused = 0
        self.away = False
        self.saves_fail = False
        self.grow(n_records)

    def grow(self, n_records: int) -> None:
        for n in range(len(self.records), len(self.records) + n_records):
            event = Event(id=n, enterprise="0367", kind=Kind.DIAL, received_at=NOON + timedelta(seconds=n))
            self.records.append(Record(cursor=f"{n:06}", item=event))

    async def cursor(self, sink: str) -> str:
        self._check()
        return self.cursors.get(sink, "")

    async def save_cursor(self, sink: str, cursor: str, *, held: str | None = None) -> bool:
        self._check(self.saves_fail)
        if held is not None and held != self.cursors.get(sink, ""):
            return False
        self.cursors[sink] = cursor
        self.saved.append((sink, cursor))
        return True

    async def trace(self, after: str, *, limit: int) -> list[Record]:
        self._check()
        self.n_reads += 1
        return [record for record in self.records if record.cursor > after][:limit]

    async def waiting_since(self, after: str) -> datetime | None:
        self._check()
        waiting = [*(record for record in self.records if record.cursor > after), *self.held_back]
        return waiting[0].item.received_at if waiting else None

    def _check(self, fails: bool = False) -> None:
        if self.away or fails:
            self.n_refused += 1
            raise StoreError


class Takers:
    """What each plugin was given. ``refusing`` is ``{plugin: record that it does not take}``."""

    def __init__(self) -> None:
        self.got: dict[str, list[str]] = {}
        self.refused: Counter[str] = Counter()
        self.refusing: dict[str, str] = {}

    async def deliver(self, plugin: str, record: Record) -> bool:
        await asyncio.sleep(0)
        if self.refusing.get(plugin) == record.cursor:
            self.refused[plugin] += 1
            return False
        self.got.setdefault(plugin, []).append(record.cursor)
        return True


def runner_of(
    store: FakeStore,
    deliver: Callable[[str, Record], Awaitable[bool]],
    *sinks: str,
    pace: Pace = QUICK,
    now: datetime = NOON,
) -> SinkRunner:
    return SinkRunner(store, sinks or ("tracer",), deliver, now=lambda: now, random=lambda: 0.5, pace=pace)


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.001)


def while_running(runner: SinkRunner, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            await body()
            await runner.stop()

    asyncio.run(main())


def cursors(*numbers: int) -> list[str]:
    return [f"{n:06}" for n in numbers]


def test_every_sink_gets_every_record_in_order() -> None:
    store, takers = FakeStore(10), Takers()

    async def body() -> None:
        await until(lambda: all(len(takers.got.get(name, [])) == 10 for name in ("tracer", "yours")))

    while_running(runner_of(store, takers.deliver, "tracer", "yours"), body)
    assert takers.got == {"tracer": cursors(*range(10)), "yours": cursors(*range(10))}
    assert store.cursors == {"tracer": "000009", "yours": "000009"}


def test_the_cursor_is_saved_once_a_batch() -> None:
    store, takers = FakeStore(7), Takers()

    async def body() -> None:
        await until(lambda: store.cursors.get("tracer") == "000006")

    while_running(runner_of(store, takers.deliver), body)
    assert store.saved == [("tracer", cursor) for cursor in cursors(2, 5, 6)]


def test_a_crash_between_delivery_and_save_delivers_the_batch_again() -> None:
    store, takers = FakeStore(5), Takers()

    async def crash() -> None:
        store.saves_fail = True
        running = asyncio.create_task(runner_of(store, takers.deliver).run())
        await until(lambda: store.n_refused >= 3)  # no more is delivered than can be saved: one batch
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(crash())
    assert store.cursors == {}
    store.saves_fail = False

    async def body() -> None:
        await until(lambda: store.cursors.get("tracer") == "000004")

    while_running(runner_of(store, takers.deliver), body)
    assert takers.got["tracer"] == cursors(0, 1, 2, 0, 1, 2, 3, 4)


def test_a_failing_sink_holds_up_only_itself_and_catches_up() -> None:
    store, takers = FakeStore(10), Takers()
    takers.refusing = {"tracer": "000004"}
    runner = runner_of(store, takers.deliver, "tracer", "yours")

    async def body() -> None:
        await until(lambda: len(takers.got.get("yours", [])) == 10 and takers.refused["tracer"] >= 3)
        assert takers.got["tracer"] == cursors(0, 1, 2, 3)
        assert store.cursors["tracer"] == "000003"  # saved up to the last that was taken
        assert runner.states()["tracer"].n_failures >= 3
        takers.refusing = {}
        await until(lambda: len(takers.got["tracer"]) == 10)

    while_running(runner, body)
    assert takers.got["tracer"] == cursors(*range(10))
    state = runner.states()["tracer"]
    assert (state.n_delivered, state.n_failures, state.n_failed) == (10, 0, takers.refused["tracer"])


def test_a_wake_does_not_shorten_the_wait_of_a_failing_sink() -> None:
    store, takers = FakeStore(1), Takers()
    takers.refusing = {"tracer": "000000"}
    runner = runner_of(store, takers.deliver, pace=Pace(first_retry_s=20.0, gather_s=0.0))

    async def body() -> None:
        await until(lambda: takers.refused["tracer"] == 1)
        for _ in range(50):
            runner.wake()
            await asyncio.sleep(0)

    while_running(runner, body)
    assert takers.refused["tracer"] == 1


def test_a_refused_record_that_is_past_the_retention_ends_the_failure() -> None:
    store, takers = FakeStore(1), Takers()
    takers.refusing = {"tracer": "000000"}
    runner = runner_of(store, takers.deliver)

    async def body() -> None:
        await until(lambda: takers.refused["tracer"] > 0)
        store.records.clear()
        await until(lambda: runner.states()["tracer"].n_failures == 0)
        assert runner.lag() == {"tracer": 0.0}

    while_running(runner, body)


def test_a_wake_is_faster_than_the_poll() -> None:
    store, takers = FakeStore(), Takers()
    runner = runner_of(store, takers.deliver, pace=Pace(poll_s=30.0, gather_s=0.0))

    async def body() -> None:
        await until(lambda: store.n_reads == 1)
        store.grow(1)
        began = time.monotonic()
        runner.wake()
        await until(lambda: "tracer" in takers.got)
        assert time.monotonic() - began < 1.0
        for _ in range(100):
            await asyncio.sleep(0)
        assert store.n_reads == 2  # one wake is one read

    while_running(runner, body)


def test_many_wakes_are_few_reads() -> None:
    store, takers = FakeStore(), Takers()
    runner = runner_of(store, takers.deliver, pace=Pace(poll_s=30.0, gather_s=0.05))

    async def body() -> None:
        await until(lambda: store.n_reads == 1)
        for _ in range(100):
            store.grow(1)
            runner.wake()
            await asyncio.sleep(0)
        await until(lambda: len(takers.got.get("tracer", [])) == 100)

    while_running(runner, body)
    assert store.n_reads <= 5


def test_the_poll_finds_what_nobody_told_of() -> None:
    store, takers = FakeStore(), Takers()

    async def body() -> None:
        await until(lambda: store.n_reads >= 1)
        store.grow(2)
        await until(lambda: len(takers.got.get("tracer", [])) == 2)

    while_running(runner_of(store, takers.deliver), body)


def test_a_store_that_is_away_is_waited_for_and_nothing_comes_twice() -> None:
    store, takers = FakeStore(4), Takers()
    store.away = True

    async def body() -> None:
        await until(lambda: store.n_refused >= 3)
        store.away = False
        await until(lambda: len(takers.got.get("tracer", [])) == 4)
        store.saves_fail = True
        store.grow(2)
        await until(lambda: len(takers.got["tracer"]) == 6)
        refused = store.n_refused
        await until(lambda: store.n_refused > refused + 2)
        store.grow(2)
        store.saves_fail = False
        await until(lambda: store.cursors.get("tracer") == "000007")

    while_running(runner_of(store, takers.deliver), body)
    assert takers.got["tracer"] == cursors(*range(8))


def test_stopping_finishes_the_record_in_hand_and_saves_its_place() -> None:
    store = FakeStore(10)
    taken: list[str] = []

    async def main() -> None:
        in_hand, go_on = asyncio.Event(), asyncio.Event()

        async def deliver(_plugin: str, record: Record) -> bool:
            if record.cursor == "000001":
                in_hand.set()
                await go_on.wait()
            taken.append(record.cursor)
            return True

        runner = runner_of(store, deliver, pace=Pace())
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            await in_hand.wait()
            stopping = group.create_task(runner.stop())
            await asyncio.sleep(0)
            assert not stopping.done()
            go_on.set()

    asyncio.run(main())
    assert taken == cursors(0, 1)
    assert store.cursors == {"tracer": "000001"}


@pytest.mark.parametrize("started", [True, False])
def test_stopping_does_not_wait_for_a_poll_or_a_retry(started: bool) -> None:
    store, takers = FakeStore(1), Takers()
    takers.refusing = {"yours": "000000"}
    slow = Pace(poll_s=30.0, first_retry_s=30.0)
    runner = runner_of(store, takers.deliver, "tracer", "yours", pace=slow)

    async def main() -> None:
        running = asyncio.create_task(runner.run())
        if started:
            await until(lambda: "tracer" in takers.got and takers.refused["yours"] == 1)
        async with asyncio.timeout(5):
            await runner.stop()
            await running

    asyncio.run(main())


def test_stopping_while_the_store_is_away_gives_the_place_up() -> None:
    store, takers = FakeStore(2), Takers()
    store.saves_fail = True

    async def body() -> None:
        await until(lambda: len(takers.got.get("tracer", [])) == 2)

    while_running(runner_of(store, takers.deliver), body)
    assert store.cursors == {}


def test_lag_is_the_age_of_the_oldest_record_that_waits() -> None:
    store, takers = FakeStore(6), Takers()
    takers.refusing = {"tracer": "000004"}
    runner = runner_of(store, takers.deliver, "tracer", "yours", now=NOON + timedelta(seconds=100))

    async def body() -> None:
        await until(lambda: takers.refused["tracer"] > 0 and len(takers.got.get("yours", [])) == 6)
        await until(lambda: runner.lag()["yours"] == 0.0)
        assert runner.lag() == {"tracer": 96.0, "yours": 0.0}

    while_running(runner, body)


def test_lag_counts_what_a_transaction_that_still_runs_holds_back() -> None:
    store, takers = FakeStore(3), Takers()
    store.grow(1)
    store.held_back = [store.records.pop()]
    runner = runner_of(store, takers.deliver, now=NOW_AND_100_S)

    async def body() -> None:
        await until(lambda: runner.lag() == {"tracer": 97.0})
        store.records.append(store.held_back.pop())
        await until(lambda: runner.lag() == {"tracer": 0.0})

    while_running(runner, body)
    assert takers.got["tracer"] == cursors(0, 1, 2, 3)
    assert runner.lag() == {"tracer": 0.0}


def test_a_sink_that_was_moved_while_it_is_idle_goes_on_there() -> None:
    store, takers = FakeStore(5), Takers()

    async def body() -> None:
        await until(lambda: store.cursors.get("tracer") == "000004")
        store.cursors["tracer"] = "000002"
        await until(lambda: len(takers.got["tracer"]) == 7)
        store.cursors["tracer"] = "000004"
        store.grow(1)
        await until(lambda: len(takers.got["tracer"]) == 8)

    while_running(runner_of(store, takers.deliver), body)
    assert takers.got["tracer"] == cursors(0, 1, 2, 3, 4, 3, 4, 5)
    assert store.cursors["tracer"] == "000005"


def test_a_batch_in_hand_is_not_saved_over_the_place_that_the_sink_was_moved_to() -> None:
    store, moved = FakeStore(6), False
    got: list[str] = []

    async def deliver(_plugin: str, record: Record) -> bool:
        nonlocal moved
        got.append(record.cursor)
        if record.cursor == "000004" and not moved:
            moved, store.cursors["tracer"] = True, "000000"
        return True

    async def body() -> None:
        await until(lambda: store.cursors.get("tracer") == "000005" and len(got) == 11)

    while_running(runner_of(store, deliver), body)
    assert got == cursors(*range(6), *range(1, 6))


def test_a_sink_can_be_moved_past_a_record_that_it_never_takes() -> None:
    store, takers = FakeStore(4), Takers()
    takers.refusing = {"tracer": "000001"}
    runner = runner_of(store, takers.deliver)

    async def body() -> None:
        await until(lambda: takers.refused["tracer"] >= 2)
        store.cursors["tracer"] = "000001"
        await until(lambda: len(takers.got["tracer"]) == 3)

    while_running(runner, body)
    assert takers.got["tracer"] == cursors(0, 2, 3)
    assert runner.states()["tracer"].n_failures == 0


def test_a_save_whose_answer_was_lost_repeats_nothing() -> None:
    store, takers = FakeStore(3), Takers()
    save, n_lost = store.save_cursor, 0

    async def save_and_lose(sink: str, cursor: str, *, held: str | None = None) -> bool:
        nonlocal n_lost
        saved = await save(sink, cursor, held=held)
        if not n_lost:
            n_lost += 1
            raise StoreError
        return saved

    store.save_cursor = save_and_lose  # type: ignore[method-assign]

    async def body() -> None:
        await until(lambda: len(takers.got.get("tracer", [])) == 3)
        store.grow(2)
        await until(lambda: store.cursors.get("tracer") == "000004")

    while_running(runner_of(store, takers.deliver), body)
    assert takers.got["tracer"] == cursors(*range(5))


@pytest.mark.parametrize(
    ("n_failures", "jitter", "expected"),
    [
        pytest.param(1, 1.0, 0.5, id="first"),
        pytest.param(2, 1.0, 1.0, id="doubles"),
        pytest.param(3, 0.0, 1.0, id="jitter takes half"),
        pytest.param(7, 1.0, 30.0, id="ends at the longest"),
        pytest.param(10_000, 1.0, 30.0, id="forever"),
    ],
)
def test_the_wait_doubles_up_to_a_limit(n_failures: int, jitter: float, expected: float) -> None:
    assert Pace().retry_s(n_failures, jitter) == expected


def test_a_bug_in_delivery_is_raised_and_not_swallowed() -> None:
    async def deliver(_plugin: str, _record: Record) -> bool:
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(runner_of(FakeStore(1), deliver).run())
    assert raised.group_contains(RuntimeError)
