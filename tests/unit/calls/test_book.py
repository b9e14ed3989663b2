"""Calls that must not be mixed up, and work that must not grow without bounds."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta

import pytest

from callgram import Event, Kind
from callgram.calls.book import Book
from callgram.calls.facts import MAX_FACTS
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


def told_together(first: str, second: str, later_s: float) -> list[str]:
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

TOGETHER_GAPS = {
    # Two calls of one client with the same manager, who transfers both to the same colleague: the consultation leg of
    # one is given to the other by its number pair, before the bridge that tells. Exact, as in test_order.
    ("classic", "xfer_attended_dtmf", "xfer_blind_dtmf", TOGETHER_S),
    ("classic", "xfer_attended_dtmf", "xfer_attended_dtmf", TOGETHER_S),
}


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
    wrong = told_together(f"{folder}{first}{suffix}", f"{folder}{second}{suffix}", later_s)
    if (sender, first, second, later_s) in TOGETHER_GAPS:
        assert wrong, "this gap is closed: take it out of TOGETHER_GAPS"
    else:
        assert wrong == []


@pytest.mark.parametrize("second_after_s", [1.7, 20.0, 36.25])
@pytest.mark.parametrize("name", ["incoming-answered", "incoming-missed", "outgoing-answered", "outgoing-unanswered"])
def test_two_calls_of_one_client_at_once_stay_two(name: str, second_after_s: float) -> None:
    first = source(name)
    both = sorted([*first.posts, *renumbered(first.posts, later_s=second_after_s)], key=lambda post: post.at_s)
    played = play(timed(both))
    assert unmatched(played.finals, first.calls * 2) == []
    assert played.leftovers == []


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


def test_a_forward_loop_of_five_hundred_groups_stays_bounded() -> None:
    posts = forward_loop(500)
    began = time.perf_counter()
    played = play(timed(posts))
    assert time.perf_counter() - began < 20.0, "the work of one event must not grow with the length of the call"
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
