"""What plugins find out about a call, and what a host tells of its cause: in every message, whenever it comes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from callgram import Call, Enrichment, History, Kind, Stage
from callgram.calls.book import Book
from callgram.events import read_event

from .test_messages import ENGLISH, drawn
from .traffic import BEGAN, PLAN, Played, Posted, hostile, play, source, timed

CLIENT = "375296254070"
NAMES = {CLIENT: "Иванов Иван", "151": "Петров <b>", "0001363": "Офис"}
FOUND = Enrichment(
    names=NAMES,
    history=History(n_calls=3, last_at=BEGAN - timedelta(days=1), last_answered=False),
    recording="https://calls.example.com/recording/x?a=1&b=2",
)


def found(unique_id: str, what: Enrichment, at_s: float) -> Posted:
    body = {"UniqueId": unique_id, **msgspec.to_builtins(what)}
    return Posted(Kind.NAMES, at_s, json.dumps(body).encode())


def enriched(name: str, what: Enrichment = FOUND, *, place: int = 2) -> Played:
    posts = list(source(name).posts)
    head = json.loads(posts[0].body)["UniqueId"]
    posts.insert(place, found(head, what, posts[place - 1].at_s))
    return play(timed(posts), show=True)


def last(played: Played, stage: Stage) -> list[str]:
    call = [call for _, call, told in played.told if told is stage][-1]
    return drawn(call, stage).html.split("\n")


def test_names_stand_with_the_numbers_in_every_message() -> None:
    played = enriched("incoming-answered")
    assert last(played, Stage.DIAL)[1] == "💰Иванов Иван +375 (29) 625-40-70"
    assert "☎️Петров &lt;b&gt; (151)" in last(played, Stage.DIAL)
    assert last(played, Stage.BRIDGE)[0] == "☎️Петров &lt;b&gt; (151) 📞⬅️ 💰Иванов Иван +375 (29) 625-40-70"
    assert "📡Офис (0001363)" in last(played, Stage.HANGUP)


def test_the_first_message_is_not_held_for_names_and_they_arrive_as_the_same_stage() -> None:
    played = enriched("incoming-answered", place=1)
    assert [str(stage) for stage in played.stages[1]] == ["start", "dial", "bridge", "hangup"]
    before, after = (drawn(call, Stage.START).html for _, call, told in played.told[:2] if told is Stage.START)
    assert ("Иванов" in before, "Иванов" in after) == (False, True)


@pytest.mark.parametrize("place", range(1, 9))
def test_what_was_found_is_on_the_last_message_whenever_it_came(place: int) -> None:
    lines = last(enriched("incoming-answered", place=place), Stage.HANGUP)
    assert "💰Иванов Иван +375 (29) 625-40-70" in lines
    assert '🔉<a href="https://calls.example.com/recording/x?a=1&amp;b=2">Запись</a>' in lines
    assert "🗂Звонил: 3 раза, последний 13.09.2025 12:05:23 ❌" in lines


def test_names_do_not_keep_a_call_alive_and_open_none() -> None:
    posts = [post for post in source("incoming-missed").posts if post.kind is not Kind.HANGUP]
    book = play(timed(posts)).book
    (before,) = book.calls.values()
    body = found(json.loads(posts[0].body)["UniqueId"], FOUND, 0.0).body
    book.apply(read_event(Kind.NAMES, body, enterprise="0367", received_at=BEGAN + timedelta(minutes=9), event_id=99))
    (after,) = book.calls.values()
    assert after.last_at == before.last_at


@pytest.mark.parametrize(
    ("n_calls", "form"), [(1, "1 раз,"), (2, "2 раза,"), (5, "5 раз,"), (11, "11 раз,"), (21, "21 раз,")]
)
def test_the_history_line_speaks_russian(n_calls: int, form: str) -> None:
    history = History(n_calls=n_calls, last_at=BEGAN, last_answered=True)
    lines = last(enriched("incoming-missed", Enrichment(history=history)), Stage.HANGUP)
    assert any(line.startswith(f"🗂Звонил: {form}") and line.endswith("✅") for line in lines)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "/opt/rec/1.wav", ""])
def test_only_a_web_address_becomes_a_link(url: str) -> None:
    assert not any(
        "🔉" in line for line in last(enriched("incoming-answered", Enrichment(recording=url)), Stage.HANGUP)
    )


@pytest.mark.parametrize("at", [0, 3, 8])
def test_a_recording_belongs_to_its_call_before_and_after_the_end(at: int) -> None:
    posts = list(source("incoming-answered").posts)
    body = {"Token": "t", "UniqueId": json.loads(posts[0].body)["UniqueId"], "Url": "https://pbx.example.com/1.mp3"}
    posts.insert(at, Posted(Kind.RECORDING, posts[max(at - 1, 0)].at_s, json.dumps(body).encode()))
    (call,) = play(timed(posts)).finals
    assert (call.recording, call.talk_s) == (
        "https://pbx.example.com/1.mp3",
        play(timed(source("incoming-answered").posts)).finals[0].talk_s,
    )


def test_a_recording_of_an_unknown_call_shows_nothing() -> None:
    body = {"Token": "t", "UniqueId": "1.1", "Url": "https://pbx.example.com/1.mp3"}
    played = play(timed([Posted(Kind.RECORDING, 0.0, json.dumps(body).encode())]), show=True)
    assert played.told == []


GAVE_UP = ("📵Звонивший не дождался", "📵The caller gave up")


def missed(**told: str) -> Call:
    posts = [hostile(post, **told) if post.kind is Kind.HANGUP else post for post in source("incoming-missed").posts]
    (call,) = play(timed(posts)).finals
    return call


@pytest.mark.parametrize(
    ("told", "line", "english"),
    [
        pytest.param({"DialStatus": "BUSY", "HangupCause": "17"}, "📵Занято", "📵Busy", id="busy"),
        pytest.param({"DialStatus": "CANCEL", "Cause": "127"}, *GAVE_UP, id="gave up"),
        pytest.param({"DialStatus": "CANCEL", "Cause": "17"}, *GAVE_UP, id="one phone busy"),
        pytest.param({"DialStatus": "NOANSWER", "Cause": "21"}, "📵Отклонён", "📵Declined", id="declined"),
        pytest.param({"DialStatus": "CHANUNAVAIL", "Cause": "3"}, "📵Недоступен", "📵Unavailable", id="unregistered"),
        pytest.param({"Cause": "1"}, "📵Неверный номер", "📵Wrong number", id="no such number"),
        pytest.param({"DialStatus": "CONGESTION"}, "📵Линия перегружена", "📵Line congested", id="congestion"),
    ],
)  # fmt: skip
def test_the_cause_is_said_where_the_host_tells_it(told: dict[str, str], line: str, english: str) -> None:
    call = missed(**told)
    assert line in drawn(call, Stage.HANGUP).html.split("\n")
    assert english in drawn(call, Stage.HANGUP, ENGLISH).html.split("\n")


def test_a_call_of_ours_that_we_gave_up_is_cancelled() -> None:
    (call,) = play(timed(source("asterisk22-pjsip/out_cancel").posts)).finals
    assert "📵Отменён" in drawn(call, Stage.HANGUP).html.split("\n")
    assert "📵Cancelled" in drawn(call, Stage.HANGUP, ENGLISH).html.split("\n")


@pytest.mark.parametrize("told", [{}, {"DialStatus": "NOANSWER", "Cause": "16"}, {"Cause": "0"}])
def test_just_ringing_is_no_cause(told: dict[str, str]) -> None:
    assert "📵" not in drawn(missed(**told), Stage.HANGUP).html


def test_an_answered_call_has_no_cause() -> None:
    posts = [
        hostile(post, Cause="17") if post.kind is Kind.HANGUP else post for post in source("incoming-answered").posts
    ]
    assert play(timed(posts)).finals[0].cause is None


@pytest.mark.parametrize(
    ("name", "line", "english"),
    [
        pytest.param("asterisk22-pjsip/in_answered.agent", "📴Завершил клиент", "📴The client hung up", id="client"),
        pytest.param("asterisk22-pjsip/in_answered_callee_hangs.agent", "📴Завершил 150", "📴150 hung up", id="manager"),
        pytest.param("asterisk22-pjsip/out_answered.agent", "📴Завершил 150", "📴150 hung up", id="outgoing"),
        pytest.param("incoming-blind-transfer-answered", "📴Завершил 152", "📴152 hung up", id="who has the client now"),
    ],
)  # fmt: skip
def test_who_left_the_last_bridge_first_hung_up(name: str, line: str, english: str) -> None:
    (call,) = play(timed(source(name).posts)).finals
    assert line in drawn(call, Stage.HANGUP).html.split("\n")
    assert english in drawn(call, Stage.HANGUP, ENGLISH).html.split("\n")


def without(name: str, kind: Kind) -> list[Posted]:
    return [post for post in source(name).posts if post.kind is not kind]


@pytest.mark.parametrize(
    "posts",
    [
        pytest.param(source("asterisk22-pjsip/in_answered").posts, id="no leaving is told"),
        pytest.param(without("incoming-answered", Kind.HANGUP), id="no end is told"),
        pytest.param(
            [hostile(post, BridgeNumChannels="?") for post in source("incoming-answered").posts], id="no number is told"
        ),
        pytest.param(source("outgoing-from-crm").posts, id="the leavings are of two bridges"),
        pytest.param(
            [
                hostile(post, CallType=2, CallStatus="0") if post.kind is Kind.HANGUP else post
                for post in source("incoming-answered").posts
            ],
            id="a transfer that nobody answered",
        ),
        pytest.param(
            [
                replace(post, at_s=post.at_s + 60) if post.kind is Kind.HANGUP else post
                for post in source("incoming-answered").posts
            ],
            id="the call went on after it",
        ),
    ],
)
def test_who_hung_up_is_not_guessed(posts: list[Posted]) -> None:
    assert {call.hung_up for call in play(timed(posts)).calls} == {None}


def test_a_book_without_the_call_keeps_its_names_for_it() -> None:
    book = Book(PLAN)
    posts = source("incoming-answered").posts
    first = found(json.loads(posts[0].body)["UniqueId"], FOUND, 0.0)
    for number, post in enumerate([first, *posts], start=1):
        book.apply(post.event(BEGAN + timedelta(seconds=post.at_s), number))
    assert [facts.found for facts in book.calls.values()] == [FOUND]
