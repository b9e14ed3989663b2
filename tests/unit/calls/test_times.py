"""Late and lost: what a hangup's own times are worth, and what is said of a call whose end came late, or never."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from callgram import Call, Kind, Stage
from callgram.calls.times import host_times
from callgram.context import Locale
from callgram.numbers import NumberPlan

from .test_messages import drawn
from .traffic import BEGAN, Posted, play, source, timed

NOON = datetime(2025, 9, 14, 12, 0, tzinfo=UTC)
MINSK = "Europe/Minsk"  # three hours ahead
START, END = "2025-09-14 12:05:23", "2025-09-14 12:05:54"  # when the scenarios begin, by the host's clock


def with_times(posts: tuple[Posted, ...], start: str, end: str) -> list[Posted]:
    return [
        Posted(post.kind, post.at_s, json.dumps(json.loads(post.body) | {"StartTime": start, "EndTime": end}).encode())
        if post.kind is Kind.HANGUP
        else post
        for post in posts
    ]


def delayed(posts: list[Posted], after_s: float, *kinds: str) -> list[Posted]:
    """The posts with those of ``kinds`` (all, where none is named) delivered ``after_s`` later."""
    late = [Posted(post.kind, post.at_s + after_s, post.body) for post in posts if not kinds or post.kind in kinds]
    return sorted([*(post for post in posts if kinds and post.kind not in kinds), *late], key=lambda post: post.at_s)


def only(posts: list[Posted], plan: NumberPlan | None = None) -> Call:
    (call,) = play(timed(posts), plan=plan or NumberPlan()).finals
    return call


def last_lines(call: Call, locale: Locale | None = None) -> list[str]:
    return drawn(call, Stage.HANGUP, locale or Locale()).html.split("\n")


@pytest.mark.parametrize(
    ("start", "end", "doubt"),
    [
        pytest.param("2025-09-14 14:50:00", "2025-09-14 14:59:55", "", id="as it should be"),
        pytest.param("", "", "", id="not told"),
        pytest.param("", "2025-09-14 14:59:55", "", id="an internal call has no StartTime"),
        pytest.param("2025-09-14T11:50:00+00:00", "2025-09-14 14:59:55", "", id="an offset wins over the zone"),
        pytest.param("2025-09-14 14:59:55", "2025-09-14 14:50:00", "EndTime is before StartTime", id="backwards"),
        pytest.param("1970-01-01 03:00:07", "1970-01-01 03:00:40", "StartTime is years or months off", id="no clock"),
        pytest.param("", "2031-09-14 14:59:55", "EndTime is in the future", id="years ahead"),
        pytest.param("soon", "2025-09-14 14:59:55", "StartTime is no time", id="no time"),
        pytest.param("", "0000-00-00 00:00:00", "EndTime is no time", id="MySQL's nothing"),
    ],
)
def test_times_out_of_reason_are_not_used(start: str, end: str, doubt: str) -> None:
    began, ended, said = host_times(start, end, NOON, MINSK)
    assert said == doubt
    assert all(at is None or at.tzinfo is UTC for at in (began, ended))
    if doubt:
        assert (began, ended) == (None, None)


def test_the_zone_of_the_host_is_the_enterprises() -> None:
    began, _, _ = host_times("2025-09-14 14:50:00", "", NOON, MINSK)
    assert began == datetime(2025, 9, 14, 11, 50, tzinfo=UTC)
    _, _, said = host_times("2025-09-14 14:50:00", "", NOON, "UTC")
    assert said == "StartTime is in the future"


def test_a_hangup_in_time_has_no_mark() -> None:
    call = only(with_times(source("incoming-answered").posts, START, END))
    assert "⏰14.09.2025 12:05:23" in last_lines(call)


def test_a_hangup_that_comes_hours_late_is_marked_and_makes_no_call_longer() -> None:
    posts = with_times(source("incoming-answered").posts, START, END)
    call = only(delayed(posts, 7200.0, "hangup", "bridge_leave"))
    assert call.talk_s is not None
    assert call.talk_s < 60
    assert "⏰14.09.2025 12:05:23 🔄" in last_lines(call)
    assert call.doubt == ""


def test_from_how_late_on_it_is_marked_is_a_setting() -> None:
    call = only(delayed(with_times(source("incoming-answered").posts, START, END), 7200.0, "hangup"))
    assert "⏰14.09.2025 12:05:23" in last_lines(call, Locale(late_after_s=10_000.0))


def test_a_call_that_is_delivered_hours_late_as_a_whole_began_when_the_host_says() -> None:
    told = with_times(source("incoming-missed").posts, START, "2025-09-14 12:05:46")
    burst = [replace(post, at_s=7200.0 + n / 100) for n, post in enumerate(told)]
    call = only(burst)
    assert call.began_at == BEGAN
    assert "⏰14.09.2025 12:05:23 🔄" in last_lines(call)


@pytest.mark.parametrize("name", ["incoming-answered", "incoming-missed", "outgoing-answered", "internal-answered"])
def test_a_hangup_first_and_everything_else_later_is_one_final_and_nothing_live(name: str) -> None:
    posts = source(name).posts
    first = [post for post in posts if post.kind is Kind.HANGUP]
    rest = [post for post in posts if post.kind is not Kind.HANGUP]
    played = play(timed([*first, *(Posted(post.kind, 100.0 + post.at_s, post.body) for post in rest)]), show=True)
    assert {stage for stages in played.stages.values() for stage in stages} == {Stage.HANGUP}
    assert [call.ended for call in played.calls] == [True]


def test_a_ringing_call_without_an_end_is_not_said_to_be_missed() -> None:
    heard = [post for post in source("incoming-missed").posts if post.kind is not Kind.HANGUP]
    (call,) = play(timed(heard)).silence().finals
    lines = last_lines(call)
    assert lines[0] == "❔Входящий звонок, итог неизвестен"
    assert lines[-1] == "ℹ️Окончание звонка не получено"


def test_a_hangup_that_comes_after_the_ghost_rule_corrects_the_message() -> None:
    name = source("incoming-missed")
    heard = [post for post in name.posts if post.kind is not Kind.HANGUP]
    played = play(timed(heard)).silence()
    end = next(post for post in name.posts if post.kind is Kind.HANGUP)
    played.book.apply(end.event(BEGAN + timedelta(hours=5), 100))
    assert last_lines(played.finals[0])[0] == "❌Пропущенный входящий звонок"


def test_events_at_the_pace_of_the_call_are_not_late_the_host_s_clock_is_off() -> None:
    call = only(delayed(with_times(source("incoming-missed").posts, START, "2025-09-14 12:05:46"), 7200.0))
    assert (call.late_s, call.doubt) == (0.0, "the host's clock or zone is off")
    assert call.began_at == call.started_at
    assert call.wait_s == 23.0
