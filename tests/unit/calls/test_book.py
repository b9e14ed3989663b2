"""Calls that must not be mixed up, and work that must not grow without bounds."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callgram import Event, Kind
from callgram.calls import book as book_module
from callgram.calls.book import Book
from callgram.calls.facts import MAX_FACTS, Facts
from callgram.calls.story import tell

from .traffic import BEGAN, PLAN, Posted, hostile, paced, play, scenarios, source, summary, timed, unmatched


def renumbered(posts: tuple[Posted, ...], *, later_s: float = 0.0) -> list[Posted]:
    """The same call once more, later, by channels and in bridges of its own."""
    found = []
    for post in posts:
        body = json.loads(post.body, strict=False)
        for name in ("UniqueId", "Linkedid", "MainUniqueId"):
            body[name] = re.sub(
                r"(\d+)\.(\d+)$", lambda old: f"{int(old[1]) + int(later_s)}.{int(old[2]) + 1000}", body.get(name) or ""
            )
        if body.get("BridgeUniqueid"):
            body["BridgeUniqueid"] += "-again"
        if body.get("Channel"):
            body["Channel"] = re.sub(r"-([0-9a-f]{8})", r"-9\1", body["Channel"])
        found.append(Posted(post.kind, post.at_s + later_s, json.dumps(body).encode()))
    return found


def wrong_together(first: str, second: str, later_s: float) -> list[str]:
    """What is wrong when the calls of ``second`` begin ``later_s`` after those of ``first``."""
    one, other = source(first), source(second)
    both = sorted([*one.posts, *renumbered(other.posts, later_s=later_s)], key=lambda post: post.at_s)
    played = play(timed(both), show=True)
    vanished = [f"vanished: {loser}" for loser, _ in played.absorbed if loser in played.stages]
    unended = [f"no end: {call.unique_id}" for call in played.leftovers]
    return [*unmatched(played.finals, [*one.calls, *other.calls]), *unended, *vanished]


SENDERS = {
    "classic": ("asterisk16-classic/", ""),
    "dialplan": ("asterisk22-pjsip/", ""),
    "agent": ("asterisk22-pjsip/", ".agent"),
}
OF_ONE_CLIENT = {
    "incoming": ("in_answered", "in_ringgroup", "in_cancel", "xfer_blind_dtmf", "xfer_attended_dtmf", "forward_mobile"),
    "outgoing": ("out_answered", "out_noanswer", "out_cancel"),
}
TOGETHER_S = 1.3  # the second begins while the first rings
REDIAL_S = 25.0  # the second begins when the first has ended, within GRACE


def couples() -> list[tuple[str, str, str, float]]:
    """Two calls of one client: which sender, which call, which next one, how much later."""
    return [
        (sender, first, second, later_s)
        for sender in SENDERS
        for names in OF_ONE_CLIENT.values()
        for first in names
        for second in names
        for later_s in (TOGETHER_S, REDIAL_S)
    ]


@pytest.mark.parametrize(("sender", "first", "second", "later_s"), couples())
def test_a_client_s_next_call_is_another_call(sender: str, first: str, second: str, later_s: float) -> None:
    """Even where the same manager takes both, and weak evidence fits either."""
    folder, suffix = SENDERS[sender]
    assert wrong_together(f"{folder}{first}{suffix}", f"{folder}{second}{suffix}", later_s) == []


def told(at_s: float, kind: str, **body: object) -> Posted:
    return Posted(Kind(kind), at_s, json.dumps({"Token": "375290000001", **body}).encode())


TALKS = [  # of one manager, each told so that its legs can be told from those of another
    "asterisk16-classic/xfer_attended_dtmf",
    "asterisk16-classic/xfer_blind_dtmf",
    "asterisk22-pjsip/xfer_attended_dtmf.agent",
    "asterisk22-pjsip/xfer_attended_refer.agent",
    "asterisk22-pjsip/xfer_blind_dtmf.agent",
    "asterisk22-pjsip/in_answered.agent",
    "asterisk22-pjsip/xfer_attended_dtmf",
    "asterisk22-pjsip/xfer_blind_dtmf",
]
OTHER_CLIENT = "375447654321"


def of_client(posts: list[Posted], client: str) -> list[Posted]:
    return [Posted(post.kind, post.at_s, post.body.replace(b"375291112233", client.encode())) for post in posts]


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    names=st.tuples(st.sampled_from(TALKS), st.sampled_from(TALKS)),
    later_s=st.floats(1.0, 12.0),
    client=st.sampled_from(["375291112233", OTHER_CLIENT]),
    delays=st.randoms(use_true_random=False),
)
def test_two_talks_that_one_manager_transfers_at_once_are_never_mixed(
    names: tuple[str, str], later_s: float, client: str, delays: random.Random
) -> None:
    """Whichever begins when, each event up to half a second late."""
    first, second = source(names[0]), source(names[1])
    posts = [*first.posts, *of_client(renumbered(second.posts, later_s=later_s), client)]
    late = sorted(
        (replace(post, at_s=post.at_s + delays.uniform(0, 0.5)) for post in posts), key=lambda post: post.at_s
    )
    played = play(timed(late))
    calls = [*first.calls, *({**call, "client": client} for call in second.calls)]
    assert unmatched(played.finals, calls, "direction", "result", "client", "line") == []
    assert played.leftovers == []


def test_a_consultation_about_one_of_two_talks_is_a_call_of_its_own_where_nothing_tells_about_which() -> None:
    """A dialplan tells neither bridges nor a common Linkedid: transferring either client gives these same events."""
    talk, refer = source("asterisk22-pjsip/in_answered"), source("asterisk22-pjsip/xfer_attended_refer")
    kept = [post for post in talk.posts if post.kind is not Kind.HANGUP]
    other = of_client(renumbered(tuple(kept), later_s=0.5), OTHER_CLIENT)
    played = play(timed(sorted([*refer.posts, *other], key=lambda post: post.at_s)))
    inner = {"direction": "internal", "result": "answered", "caller": "150", "answered_by": "151", "finals": 1}
    incoming = {**refer.calls[0], "transferred_to": ""}
    assert unmatched(played.finals, [incoming, inner]) == []
    assert [summary(call)["transferred_to"] for call in played.leftovers] == [""]


def test_a_talk_inside_during_which_a_client_is_answered_is_no_consultation_about_him() -> None:
    """The internal call was there first, by the host's counters, though its hangup comes in the middle of the talk."""
    client, line = {"Phone": "375291112233", "CallType": 0, "Trunk": "0001363"}, "SIP/0001363-0000000c"
    inside = {"UniqueId": "1795361900.10", "CallType": 2, "Phone": "150", "Extensions": ["151"]}
    posts = [
        told(0, "dial", **inside),
        told(
            1,
            "bridge",
            UniqueId="1795361900.10",
            BridgeUniqueid="a",
            Channel="SIP/150-0000000a",
            ConnectedLineNum="151",
        ),
        told(
            1,
            "bridge",
            UniqueId="1795361900.11",
            BridgeUniqueid="a",
            Channel="SIP/151-0000000b",
            ConnectedLineNum="150",
        ),
        told(9, "start", UniqueId="1795361909.12", **client),
        told(9, "dial", UniqueId="1795361909.12", **client, Extensions=["150"]),
        told(12, "bridge", UniqueId="1795361909.13", BridgeUniqueid="b", Channel="SIP/150-0000000d"),
        told(12, "bridge", UniqueId="1795361909.12", BridgeUniqueid="b", Channel=line, CallerIDNum="375291112233"),
        told(14, "hangup", **inside, CallStatus="2"),
        told(20, "hangup", UniqueId="1795361909.12", **client, Extensions=["150"], CallStatus="2"),
    ]
    finals = play(timed(posts)).finals
    assert [(call.direction, call.talkers) for call in finals] == [("internal", ("151",)), ("incoming", ("150",))]


@pytest.mark.parametrize("second_after_s", [1.7, 20.0, 36.25])
@pytest.mark.parametrize("name", ["incoming-answered", "incoming-missed", "outgoing-answered", "outgoing-unanswered"])
def test_two_calls_of_one_client_at_once_stay_two(name: str, second_after_s: float) -> None:
    first = source(name)
    both = sorted([*first.posts, *renumbered(first.posts, later_s=second_after_s)], key=lambda post: post.at_s)
    played = play(timed(both))
    assert unmatched(played.finals, first.calls * 2) == []
    assert played.leftovers == []


@pytest.mark.parametrize("sender", ["asterisk16-classic/anonymous", "asterisk22-pjsip/anonymous.agent"])
def test_two_hidden_callers_at_once_are_two(sender: str) -> None:
    first = source(sender)
    both = sorted([*first.posts, *renumbered(first.posts, later_s=1.0)], key=lambda post: post.at_s)
    played = play(timed(both))
    assert unmatched(played.finals, first.calls * 2) == []


def test_a_missed_and_an_answered_call_of_one_client_at_once_keep_their_results() -> None:
    missed, answered = source("incoming-missed"), source("incoming-answered")
    both = sorted([*answered.posts, *renumbered(missed.posts, later_s=3.25)], key=lambda post: post.at_s)
    assert unmatched(play(timed(both)).finals, [*missed.calls, *answered.calls]) == []


def test_a_client_who_is_called_back_while_he_calls_in_is_two_calls() -> None:
    incoming, outgoing = source("incoming-missed"), source("outgoing-answered")
    both = sorted([*incoming.posts, *renumbered(outgoing.posts, later_s=1.25)], key=lambda post: post.at_s)
    assert unmatched(play(timed(both)).finals, [*incoming.calls, *outgoing.calls]) == []


def test_enterprises_with_equal_unique_ids_have_books_of_their_own() -> None:
    """UniqueId is unique per host only: the planner keeps a book for each enterprise (docs/events.md)."""
    mine, theirs = source("incoming-answered"), source("incoming-missed")
    own_id = json.loads(mine.posts[0].body)["UniqueId"]
    foreign = [hostile(post, UniqueId=own_id) for post in theirs.posts if post.kind in {"start", "dial", "hangup"}]
    books = {"0367": Book(PLAN), "0368": Book(PLAN)}
    arrivals = [("0367", post) for post in mine.posts] + [("0368", post) for post in foreign]
    for number, (enterprise, post) in enumerate(sorted(arrivals, key=lambda one: one[1].at_s), start=1):
        books[enterprise].apply(post.event(BEGAN + timedelta(seconds=post.at_s), number, enterprise))
    told = {name: [tell(facts, PLAN) for facts in book.calls.values()] for name, book in books.items()}
    assert [unmatched(told["0367"], mine.calls), unmatched(told["0368"], theirs.calls)] == [[], []]
    assert {call.enterprise for call in told["0368"]} == {"0368"}


def forward_loop(groups: int) -> list[Posted]:
    """A phone that forwards to itself: each group is a new Local leg that is dialled (captures, forward_loop)."""
    host = {"Token": "375290000001", "Phone": "375291112233"}
    main = {**host, "UniqueId": "1795362060.155", "CallType": 0, "Trunk": "0001363"}
    told = [("start", main), ("dial", {**main, "Extensions": ["150"]})]
    for n in range(groups):
        inner = {"Token": host["Token"], "CallerIDNum": "375291112233", "ConnectedLineNum": "150", "Exten": "150"}
        local = f"Local/150@from-internal-{n:08x}"
        told += [
            ("new_callerid", {**inner, "UniqueId": f"1795362061.{2 * n + 1000}", "Channel": f"{local};1"}),
            ("new_callerid", {**inner, "UniqueId": f"1795362061.{2 * n + 1001}", "Channel": f"{local};2"}),
            ("dial", {**host, "UniqueId": f"1795362061.{2 * n + 1001}", "CallType": 0, "Extensions": ["150"]}),
        ]
    told.append(("hangup", {**main, "Extensions": [""], "CallStatus": "0"}))
    return [Posted(Kind(kind), 0.07 * n, json.dumps(body).encode()) for n, (kind, body) in enumerate(told)]


def test_a_forward_loop_of_fifteen_groups_is_one_missed_call() -> None:
    played = play(timed(forward_loop(15)))
    assert [summary(call)["result"] for call in played.finals] == ["missed"]
    assert played.leftovers == []


@pytest.mark.parametrize("groups", [15, 500])
def test_the_work_of_an_event_does_not_grow_with_the_length_of_the_call(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Facts] = []
    monkeypatch.setattr(book_module, "tell", lambda facts, plan: (asked.append(facts), tell(facts, plan))[1])
    posts = forward_loop(groups)
    play(timed(posts))
    assert len(asked) < 4 * len(posts)
    assert max(len(one.dials) + len(one.moves) + len(one.legs) for one in asked) <= 3 * MAX_FACTS


def test_a_forward_loop_of_five_hundred_groups_stays_bounded() -> None:
    played = play(timed(forward_loop(500)))
    assert [summary(call)["result"] for call in played.finals] == ["missed"]
    facts = next(iter(played.book.calls.values()))
    for kept in (facts.starts, facts.dials, facts.hangups, facts.moves, facts.legs):
        assert len(kept) <= MAX_FACTS


def test_the_end_of_a_call_longer_than_its_bounds_is_not_cut_off() -> None:
    """Facts are bounded, but the hangup of the head must be kept however many legs ended before it."""
    start, end = source("incoming-missed").posts[0], source("incoming-missed").posts[-1]
    main = json.loads(start.body)["UniqueId"]
    inner = [
        hostile(end, UniqueId=f"inner.{n}", Linkedid=main, CallType=2, Trunk="", Phone="150")
        for n in range(MAX_FACTS + 5)
    ]
    played = play(paced([start, *inner, end]))
    assert [call.ended for call in played.calls] == [True]


def test_a_channel_that_enters_bridges_without_end_does_not_lose_that_it_left() -> None:
    name = source("incoming-answered")
    enter, leave = (next(post for post in name.posts if post.kind == kind) for kind in ("bridge", "bridge_leave"))
    posts = [*name.posts[:6], *(post for _ in range(MAX_FACTS) for post in (leave, enter)), *name.posts[6:]]
    played = play(paced(posts))
    assert unmatched(played.finals, name.calls) == []


def test_a_repeated_event_changes_nothing_but_the_version() -> None:
    for scenario in scenarios():
        once = play(paced(scenario.posts))
        again = play(paced([*scenario.posts, scenario.posts[-1]]))
        assert [summary(call) for call in once.calls] == [summary(call) for call in again.calls]


def test_a_hold_in_the_middle_of_a_talk_ends_nothing() -> None:
    """bridge_leave is told on hold and transfer too; only a hangup of the head, or silence, is an end."""
    posts = [post for post in source("incoming-answered").posts if post.kind != "hangup"]
    played = play(timed(posts))
    assert [call.ended for call in played.calls] == [False]


def test_events_that_arrive_after_the_ghost_rule_closed_a_call_still_end_it_rightly() -> None:
    name = source("incoming-answered")
    played = play(timed(name.posts[:6])).silence()
    assert [call.closed for call in played.finals] == [True]
    last = name.posts[-1]
    late: Event = last.event(BEGAN + timedelta(hours=5), 100)
    played.book.apply(late)
    assert unmatched(played.finals, name.calls) == []
    assert [call.closed for call in played.finals] == [False]


def of_host(name: str, posts: tuple[Posted, ...], client: str) -> list[Posted]:
    """The posts as a host with a system name sends them (``systemname`` of asterisk.conf), about another client."""
    found = []
    for post in posts:
        body = post.body.decode().replace("375296254070", client)
        body = re.sub(r'"(\d{10}\.\d+)"', rf'"{name}-\1"', body)
        found.append(Posted(post.kind, post.at_s, re.sub(r'(BridgeUniqueid": "\w+)', rf"\1{name}", body).encode()))
    return found


@pytest.mark.parametrize("second", ["incoming-answered", "incoming-missed", "outgoing-answered", "internal-answered"])
def test_two_hosts_of_one_enterprise_with_equal_counters_are_not_mixed(second: str) -> None:
    first, other = source("incoming-answered"), source(second)
    posts = [*of_host("pbx1", first.posts, "375296254070"), *of_host("pbx2", other.posts, "375447654321")]
    told = play(timed(sorted(posts, key=lambda post: post.at_s)))
    renamed = [{**call, "client": "375447654321"} if call.get("client") else call for call in other.calls]
    assert unmatched(told.finals, [*first.calls, *renamed]) == []
    assert told.leftovers == []
