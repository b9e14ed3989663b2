"""What the planner wants chats to show, and which decisions it leaves in the trace, for calls that come late or wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from callgram import Action, Kind, Op, Stage

from ..test_enricher import World
from .test_times import with_times
from .traffic import SHIPPED, Posted, source


def planned(posts: Iterable[Posted]) -> tuple[list[Stage], list[Action]]:
    """The stage that each card of the one chat wants at the end, and the decisions on the way."""

    async def run() -> tuple[list[Stage], list[Action]]:
        world = World(**SHIPPED)
        await world.open()
        for post in posts:
            body = json.loads(post.body)
            await world.tell(post.kind, {"UniqueId": "", **body})
        records = await world.store.trace("", limit=1000)
        skips = [item for record in records if isinstance(item := record.item, Action) and item.op is Op.SKIP]
        return [stored.card.stage for stored in world.store._db.cards.values()], skips

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("start", "end", "doubt"),
    [
        pytest.param("1970-01-01 03:00:07", "1970-01-01 03:00:40", "StartTime is years or months off", id="no clock"),
        pytest.param("2025-09-14 12:05:00", "2025-09-14 12:04:00", "EndTime is before StartTime", id="backwards"),
    ],
)
def test_times_that_are_not_used_are_a_decision_in_the_trace(start: str, end: str, doubt: str) -> None:
    posts = with_times(source("incoming-missed").posts, start, end)
    _, skips = planned([*posts, posts[-1], posts[0]])
    assert [skip.reason for skip in skips if skip.reason.startswith("host_times")] == [f"host_times: not used, {doubt}"]


def test_times_within_reason_are_none() -> None:
    posts = with_times(source("incoming-missed").posts, "2025-09-14 12:05:00", "2025-09-14 12:05:20")
    assert not [skip for skip in planned(posts)[1] if skip.reason.startswith("host_times")]


@pytest.mark.parametrize("name", ["incoming-answered", "incoming-missed", "outgoing-answered", "internal-answered"])
def test_a_hangup_first_and_everything_else_later_wants_one_last_message(name: str) -> None:
    posts = source(name).posts
    last = [post for post in posts if post.kind is Kind.HANGUP]
    cards, _ = planned([*last, *(post for post in posts if post.kind is not Kind.HANGUP)])
    assert cards == [Stage.HANGUP]


def test_a_consultation_that_was_shown_as_a_call_becomes_a_part_of_the_one_it_was_about() -> None:
    """The talk's bridge is lost; the hangup at the end tells who had the client."""
    posts = [post for post in source("asterisk22-pjsip/xfer_attended_refer").posts if str(post) != "bridge .113"]
    assert planned(posts[:-1])[0] == [Stage.DIAL, Stage.HANGUP]
    cards, _ = planned(posts)
    assert cards == [Stage.HANGUP]
