"""Nothing depends on order, repetition or completeness: permuted, doubled and lossy traffic tells the same calls."""

from __future__ import annotations

from math import factorial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .traffic import Played, Posted, Source, paced, play, sources, timed, unmatched

EVERY = [pytest.param(source, id=source.name) for source in sources()]
SAID = ("direction", "result", "client", "line")
EXAMPLES = 40  # of each source; derandomized, so the same ones in every run


def wrong_with(played: Played, source: Source) -> list[str]:
    unended = [f"no end: {call.unique_id} {call.direction}" for call in played.leftovers]
    return [*unmatched(played.finals, source.calls, *SAID), *unended]


def counterexample(source: Source) -> str:
    """An order of arrival with which ``source`` tells other calls, ``""`` where none is found."""
    numbers = range(len(source.posts))

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(order=st.permutations(numbers), twice=st.lists(st.sampled_from(numbers), max_size=3, unique=True))
    def tells_the_same(order: list[int], twice: list[int]) -> None:
        posts = [source.posts[n] for n in order]
        for n in twice:
            posts.insert(n, source.posts[n])
        wrong = wrong_with(play(paced(posts)), source)
        assert not wrong, f"{[str(post) for post in posts]}: {wrong}"

    try:
        tells_the_same()
    except AssertionError as error:
        return str(error)
    return ""


def test_more_than_two_thousand_orders_of_arrival_are_drawn() -> None:
    """A short call has fewer than EXAMPLES."""
    assert sum(min(EXAMPLES, factorial(len(source.posts))) for source in sources()) > 2000


@pytest.mark.parametrize("source", EVERY)
def test_any_order_of_arrival_with_repetitions_tells_the_same_calls(source: Source) -> None:
    assert not counterexample(source)


@pytest.mark.parametrize("source", EVERY)
def test_everything_told_twice_in_its_order_tells_the_same_calls(source: Source) -> None:
    posts = [post for post in source.posts for _ in range(2)]
    assert wrong_with(play(paced(posts)), source) == []


@pytest.mark.parametrize("source", EVERY)
def test_a_recovery_job_that_repeats_the_whole_call_changes_nothing(source: Source) -> None:
    assert wrong_with(play(paced([*source.posts, *source.posts])), source) == []


def without(source: Source, n: int) -> tuple[Posted, ...]:
    return source.posts[:n] + source.posts[n + 1 :]


@pytest.mark.parametrize("source", [case for case in EVERY if len(case.values[0].posts) > 1])
def test_the_loss_of_any_one_event_leaves_one_right_final_for_each_call(source: Source) -> None:
    """With what is left there still is evidence for every field, so that nothing may be wrong or unknown."""
    failing = {
        str(post)
        for n, post in enumerate(source.posts)
        if wrong_with(play(timed(without(source, n))).silence(), source)
    }
    assert failing == set()


@pytest.mark.parametrize("source", EVERY)
def test_no_loss_makes_a_call_longer_than_its_traffic(source: Source) -> None:
    lasted_s = source.posts[-1].at_s - source.posts[0].at_s
    for n in range(len(source.posts)):
        for call in play(timed(without(source, n))).silence().finals:
            assert 0 <= (call.talk_s or 0) <= lasted_s + 0.001
            assert 0 <= (call.wait_s or 0) <= lasted_s + 0.001


@pytest.mark.parametrize("source", EVERY)
def test_a_call_that_nobody_answered_is_never_called_answered_whatever_is_lost(source: Source) -> None:
    if any(call["result"] == "answered" for call in source.calls):
        return
    for n in range(len(source.posts)):
        assert not any(call.answered for call in play(timed(without(source, n))).silence().finals)


@pytest.mark.parametrize("source", EVERY)
def test_a_call_whose_end_never_comes_is_closed_by_the_clock_and_says_so(source: Source) -> None:
    """After a kill -9 of the host no hangup comes at all. Only what bridges told may be called answered."""
    heard = [post for post in source.posts if post.kind != "hangup"]
    played = play(timed(heard)).silence()
    assert all(call.closed and call.wait_s is None for call in played.finals)
    bridged = any(post.kind == "bridge" for post in heard)
    assert all(bridged or not call.answered for call in played.finals)
