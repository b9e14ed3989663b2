"""Budgets and gates. The clock is a number, so a minute costs nothing."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callgram.telegram.limits import BOT, BOT_WINDOW_S, Limits, LimitSettings

ANN, BOB, GROUP, CHANNEL = 1, 2, -5, -100123
WIDE = LimitSettings(private_per_s=1e6, private_burst=10**6, group_per_min=10**9, group_burst=10**9, bot_per_s=10**9)
A_HAIR = 1e-6
"""Sums of floats are compared with this much patience."""


def sent_at(limits: Limits, chat_id: int, count: int, now: float = 0.0) -> list[float]:
    """When ``count`` messages go out if each is sent as soon as it may."""
    times = []
    for _ in range(count):
        now = limits.ready_at(7, chat_id, now)
        limits.take(7, chat_id, now)
        times.append(now)
    return times


def most_within(times: list[float], window: float) -> int:
    return max((sum(1 for other in times if 0 <= other - start < window - A_HAIR) for start in times), default=0)


def test_a_private_chat_takes_a_burst_and_then_one_a_second() -> None:
    assert sent_at(Limits(), ANN, 7) == [0, 0, 0, 0, 1, 2, 3]


def test_a_group_is_paced_so_that_a_busy_minute_does_not_end_in_silence() -> None:
    times = sent_at(Limits(), GROUP, 60)

    assert times[:8] == [0, 0, 0, 0, 0, 0, 3, 6]
    assert most_within(times, 60) == 20
    assert max(later - earlier for earlier, later in pairwise(times)) <= 18


def test_all_chats_of_a_bot_share_thirty_a_second() -> None:
    limits = Limits()
    for chat_id in range(1, 31):
        assert limits.ready_at(7, chat_id, 10.0) == 10.0
        limits.take(7, chat_id, 10.0)

    assert limits.ready_at(7, 99, 10.5) == 10.0 + BOT_WINDOW_S
    assert limits.ready_at(8, 99, 10.5) == 10.5
    assert limits.blocked(10.5) == [(7, BOT)]
    assert limits.next_ready(10.5) == 10.0 + BOT_WINDOW_S
    assert limits.blocked(10.0 + BOT_WINDOW_S) == []


def test_free_is_what_a_bot_may_still_send() -> None:
    limits = Limits(LimitSettings(bot_per_s=3))
    assert limits.free(700, 0.0) == 3
    for chat, now in ((41, 0.0), (42, 0.5)):
        limits.take(700, chat, now)
    assert [limits.free(700, now) for now in (0.5, 1.0, 1.06, 1.6)] == [1, 1, 2, 3]
    limits.close(700, BOT, 5.0, 1.6)
    assert [limits.free(700, now) for now in (4.9, 5.0)] == [0, 3]


def test_blocked_names_chats_until_they_may_be_written_to() -> None:
    limits = Limits()
    sent_at(limits, ANN, 4)
    sent_at(limits, GROUP, 6)

    assert set(limits.blocked(0.5)) == {(7, ANN), (7, GROUP)}
    assert limits.next_ready(0.5) == 1.0
    assert limits.blocked(1.0) == [(7, GROUP)]
    assert limits.next_ready(1.0) == 3.0
    assert limits.blocked(3.0) == []
    assert limits.next_ready(3.0) is None


def test_a_flood_closes_the_chat_and_only_the_chat() -> None:
    limits = Limits()

    assert limits.flood(7, ANN, 30, 100.0, jitter_s=0.5) == 0.0
    assert limits.ready_at(7, ANN, 100.0) == 130.5
    assert limits.ready_at(7, BOB, 100.0) == 100.0
    assert limits.blocked(130.0) == [(7, ANN)]
    assert limits.blocked(130.5) == []


def test_a_flood_never_shortens_an_earlier_one() -> None:
    limits = Limits()
    limits.flood(7, ANN, 200, 0.0)
    limits.flood(7, ANN, 3, 1.0)

    assert limits.ready_at(7, ANN, 1.0) == 200.0


def test_floods_of_two_chats_within_a_second_close_the_bot_for_the_shorter_wait() -> None:
    limits = Limits()
    limits.flood(7, ANN, 200, 0.0)

    assert limits.flood(7, BOB, 10, 0.5) == 10
    assert limits.ready_at(7, GROUP, 0.5) == 10.5
    assert limits.ready_at(8, GROUP, 0.5) == 0.5
    assert (7, BOT) in limits.blocked(0.5)


@pytest.mark.parametrize(
    ("chat_id", "at"), [pytest.param(ANN, 0.5, id="the same chat"), pytest.param(BOB, 1.5, id="a second later")]
)
def test_floods_that_say_nothing_about_the_bot_leave_it_open(chat_id: int, at: float) -> None:
    limits = Limits()
    limits.flood(7, ANN, 20, 0.0)

    assert limits.flood(7, chat_id, 20, at) == 0.0
    assert limits.ready_at(7, GROUP, at) == at


def test_buckets_start_empty_after_a_takeover() -> None:
    limits = Limits()
    limits.start_bot(7, 50.0)

    assert limits.blocked(50.0) == [(7, BOT)]
    assert sent_at(limits, ANN, 3, 50.0) == [51, 52, 53]
    assert sent_at(limits, GROUP, 3, 50.0) == [51, 54, 57]
    assert sent_at(limits, BOB, 5, 90.0) == [90, 90, 90, 90, 91]


def test_a_bot_that_nobody_had_starts_full() -> None:
    limits = Limits()
    limits.start_bot(7, 50.0, empty=False)

    assert sent_at(limits, ANN, 4, 50.0) == [50, 50, 50, 50]


def test_a_gate_without_end_waits_for_a_person() -> None:
    limits = Limits()
    limits.close(7, ANN, inf, 0.0)

    assert limits.ready_at(7, ANN, 1e9) == inf
    assert limits.blocked(1e9) == [(7, ANN)]
    assert limits.next_ready(1e9) is None
    limits.open(7, ANN, 1e9)
    assert limits.blocked(1e9) == []
    assert limits.ready_at(7, ANN, 1e9) == 1e9


def test_stopping_a_bot_forgets_it_and_no_other() -> None:
    limits = Limits()
    for bot_id in (7, 8):
        limits.flood(bot_id, ANN, 30, 0.0)
    limits.stop_bot(7)

    assert limits.blocked(0.0) == [(8, ANN)]
    assert limits.ready_at(7, ANN, 0.0) == 0.0
    assert limits.next_ready(0.0) == 30.0


def test_memory_follows_the_chats_of_the_last_minute() -> None:
    limits = Limits(msgspec.structs.replace(WIDE, private_per_s=1.0, private_burst=4))
    for n in range(10_000):
        limits.take(7, 1 + n, n * 0.01)

    assert len(limits) < 500


def test_one_long_flood_does_not_keep_others_in_memory() -> None:
    limits = Limits()
    limits.flood(7, ANN, 10_000, 0.0)
    for n in range(1_000):
        limits.take(7, 10 + n, float(n))

    assert len(limits) < 20
    assert limits.ready_at(7, ANN, 1_000.0) == 10_000


def test_limits_can_be_opened_wide() -> None:
    limits = Limits(WIDE)
    for n in range(1_000):
        assert limits.ready_at(7, GROUP, n * 1e-4) == n * 1e-4
        limits.take(7, GROUP, n * 1e-4)

    assert limits.blocked(0.1) == []


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"per_fortnight": 3}, LimitSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"bot_per_s": 0}, LimitSettings)


STEPS = st.lists(
    st.tuples(st.sampled_from([ANN, BOB, GROUP, CHANNEL, *range(10, 50)]), st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.5])),
    max_size=250,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_nobody_who_waits_ever_exceeds_a_rate(steps: list[tuple[int, float]], patient: bool, empty: bool) -> None:
    limits = Limits()
    limits.start_bot(7, 0.0, empty=empty)
    now = 0.0
    sent: dict[int, list[float]] = {}
    for chat_id, pause in steps:
        now += pause
        ready = limits.ready_at(7, chat_id, now)
        assert now <= ready <= now + 61
        assert (ready > now) == bool({(7, chat_id), (7, BOT)} & set(limits.blocked(now)))
        if patient:
            assert limits.ready_at(7, chat_id, ready) == ready, "a moment that was promised holds"
            now = ready
        if ready <= now:
            limits.take(7, chat_id, now)
            sent.setdefault(chat_id, []).append(now)

    assert most_within(sorted(at for times in sent.values() for at in times), 1.0) <= 30
    for chat_id, times in sent.items():
        if chat_id < 0:
            assert most_within(times, 60.0) <= 20
        else:
            assert all(most_within(times, float(window)) <= 4 + window for window in (1, 2, 5, 20))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "flood", "open", "look"]),
            st.sampled_from([ANN, BOB, GROUP, CHANNEL]),
            st.sampled_from([0.0, 0.2, 3.0, 90.0]),
        ),
        max_size=80,
    )
)
def test_blocked_and_next_ready_agree_with_ready_at(steps: list[tuple[str, int, float]]) -> None:
    limits = Limits()
    now = 0.0
    for what, chat_id, pause in steps:
        now += pause
        match what:
            case "take":
                limits.take(7, chat_id, now)
            case "flood":
                limits.flood(7, chat_id, 1 + pause, now)
            case "open":
                limits.open(7, chat_id, now)
        blocked = limits.blocked(now)
        assert len(blocked) == len(set(blocked))
        for chat in (ANN, BOB, GROUP, CHANNEL):
            assert (limits.ready_at(7, chat, now) > now) == bool({(7, chat), (7, BOT)} & set(blocked))
        soonest = limits.next_ready(now)
        assert (soonest is None) == (not blocked)
        if soonest is not None:
            until = {chat: limits.ready_at(7, chat, now) for chat in (ANN, BOB, GROUP, CHANNEL)}
            assert now < soonest <= min(at for at in until.values() if at > now)
