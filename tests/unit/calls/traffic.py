"""The recorded traffic of the tests: scenarios and captures, played through the book as the planner plays them.

Reads ``tests/data``. Events are played in order of arrival; ``stages`` is what the shipped plugins would have shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

import callgram_bridge
import callgram_dial
import callgram_hangup
import callgram_internal
import callgram_start
from callgram import Call, Context, Direction, Event, Kind, Plan, Stage
from callgram.calls.book import Book
from callgram.calls.story import tell
from callgram.dispatch import run_now
from callgram.events import read_event
from callgram.numbers import NumberPlan

from .shapes import SHAPES

DATA = Path(__file__).parents[2] / "data"
PLAN = NumberPlan()
BEGAN = datetime(2025, 9, 14, 9, 5, 23, tzinfo=UTC)
SHIPPED = {
    "start": callgram_start,
    "dial": callgram_dial,
    "bridge": callgram_bridge,
    "hangup": callgram_hangup,
    "internal": callgram_internal,
}
SETTINGS = {name: plugin.Settings() for name, plugin in SHIPPED.items() if hasattr(plugin, "Settings")}
MANY_EVENTS_S = 0.5  # typical pacing of one host's POSTs (docs/events.md)


@dataclass(frozen=True)
class Posted:
    """One POST: where to, when (seconds since the first), and the body as it came."""

    kind: Kind
    at_s: float
    body: bytes

    def event(self, at: datetime, event_id: int, enterprise: str = "0367") -> Event:
        return read_event(self.kind, self.body, enterprise=enterprise, received_at=at, event_id=event_id)

    def __str__(self) -> str:
        fields = json.loads(self.body, strict=False)
        return f"{self.kind} .{fields.get('UniqueId', '').rpartition('.')[2]}"


@dataclass(frozen=True)
class Source:
    """A piece of traffic and what the calls in it were."""

    name: str
    posts: tuple[Posted, ...]
    expected: dict[str, Any]

    @property
    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self.expected["calls"]
        return calls

    def __str__(self) -> str:
        return self.name


@cache
def sources() -> tuple[Source, ...]:
    """Every scenario, every capture and every made shape, with its expectation."""
    return (*scenarios(), *captures(), *made())


@cache
def made() -> tuple[Source, ...]:
    """The shapes of ``shapes.py``, as a host posts them that makes a channel when its first event comes."""
    found = []
    for name, (told, call) in SHAPES.items():
        posts = []
        born: dict[int, int] = {}
        for at_s, kind, counter, fields in told:
            second = born.setdefault(counter, int(BEGAN.timestamp() + at_s))
            body = {"Token": "375290000001", "UniqueId": f"{second}.{counter}", **fields}
            posts.append(Posted(Kind(kind), at_s, json.dumps(body).encode()))
        found.append(Source(f"made/{name}", tuple(posts), {"calls": [call], "leftovers": 0}))
    return tuple(found)


@cache
def scenarios() -> tuple[Source, ...]:
    found = []
    for path in sorted((DATA / "scenarios").glob("*.json")):
        told = json.loads(path.read_text("utf-8"))
        posts = tuple(
            Posted(Kind(event["path"].strip("/")), event["at_s"], json.dumps(event["body"]).encode())
            for event in told["events"]
        )
        found.append(Source(path.stem, posts, told["expect"]))
    return tuple(found)


@cache
def captures() -> tuple[Source, ...]:
    expected = json.loads((DATA / "captures" / "expected.json").read_text("utf-8"))
    found = []
    for name, expectation in expected.items():
        lines = [json.loads(line) for line in (DATA / "captures" / name).read_text("utf-8").splitlines()]
        began = lines[0]["time"]
        posts = tuple(
            Posted(Kind(line["path"].rpartition("/")[2]), line["time"] - began, line["body_raw"].encode())
            for line in lines
        )
        found.append(Source(name.removesuffix(".jsonl").removesuffix(".http"), posts, expectation))
    return tuple(found)


def source(name: str) -> Source:
    return next(one for one in sources() if one.name == name)


def without_unseen_kinds(posts: Iterable[Posted]) -> list[Posted]:
    return [post for post in posts if post.kind not in {Kind.BRIDGE_CREATE, Kind.BRIDGE_DESTROY}]


@dataclass
class Played:
    """What came of traffic. ``stages`` and ``directions`` are those that readers saw, in order, of each call."""

    book: Book
    stages: dict[int, list[Stage]] = field(default_factory=dict)
    directions: dict[int, list[Direction]] = field(default_factory=dict)
    told: list[tuple[Event, Call, Stage]] = field(default_factory=list)
    absorbed: list[tuple[int, int]] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        """The calls that a reader can see, oldest first; those of which only inner legs are known have no head."""
        told = [tell(facts, self.book.plan) for facts in self.book.calls.values()]
        return sorted((call for call in told if call.unique_id), key=lambda call: (call.started_at, call.id))

    @property
    def finals(self) -> list[Call]:
        return [call for call in self.calls if call.ended]

    @property
    def leftovers(self) -> list[Call]:
        return [call for call in self.calls if not call.ended]

    def silence(self) -> Played:
        """Nothing more comes: the ghost rule closes every call that has no end."""
        latest = max((facts.last_at for facts in self.book.calls.values()), default=BEGAN)
        for facts in list(self.book.calls.values()):
            call = tell(facts, self.book.plan)
            if call.ended:
                continue
            timer = Event(
                enterprise=facts.enterprise,
                kind=Kind.TIMER,
                received_at=latest + timedelta(hours=4),
                unique_id=call.unique_id,
            )
            _show(self, timer, self.book.close(facts.id, timer).facts.id)
        return self


def timed(posts: Iterable[Posted]) -> Iterator[tuple[Posted, datetime]]:
    """Posts with the moments at which they really arrived."""
    return ((post, BEGAN + timedelta(seconds=post.at_s)) for post in posts)


def paced(posts: Iterable[Posted]) -> Iterator[tuple[Posted, datetime]]:
    """Posts arriving one by one in the order given, at the usual pace of a host."""
    return ((post, BEGAN + timedelta(seconds=MANY_EVENTS_S * n)) for n, post in enumerate(posts))


def play(arrivals: Iterable[tuple[Posted, datetime]], *, show: bool = False, plan: NumberPlan = PLAN) -> Played:
    """Feed the book; ``show`` asks the shipped plugins after each event, as the planner does."""
    played = Played(Book(plan))
    for number, (post, at) in enumerate(arrivals, start=1):
        event = post.event(at, number)
        touch = played.book.apply(event)
        played.absorbed += [(loser, touch.facts.id) for loser in touch.absorbed]
        if show:
            _show(played, event, touch.facts.id)
    return played


def _show(played: Played, event: Event, call_id: int) -> None:
    call = tell(played.book.calls[call_id], played.book.plan)
    plan = planned(call, event) if call.unique_id else None
    if plan is None:
        return
    played.told.append((event, call, plan.stage))
    shown = played.stages.setdefault(call_id, [])
    if not shown or shown[-1] is not plan.stage:
        shown.append(plan.stage)
    played.directions.setdefault(call_id, []).append(call.direction)


def context(plugin: str, at: datetime, locale: Any = None) -> Context:
    ctx = Context(now=at, settings=SETTINGS.get(plugin))
    return msgspec.structs.replace(ctx, locale=locale) if locale else ctx


def planned(call: Call, event: Event) -> Plan | None:
    """The latest stage that a shipped plugin plans, as the planner chooses it."""
    plans = [
        run_now(plugin.plan_message(context(name, event.received_at), call, event)) for name, plugin in SHIPPED.items()
    ]
    return max((plan for plan in plans if plan), key=lambda plan: plan.stage.rank, default=None)


def summary(call: Call) -> dict[str, Any]:
    """What an expectation can name, of a call as it was told."""
    return {
        "direction": str(call.direction),
        "result": str(call.result),
        "client": call.client,
        "line": call.line,
        "answered_by": call.talkers[0] if call.talkers else "",
        "transferred_to": call.talkers[-1] if len(call.talkers) > 1 else "",
        "caller": call.caller,
    }


def fits(call: Call, expected: dict[str, Any], *fields: str) -> bool:
    """Whether a call is the expected one, as far as the expectation (and ``fields``, where given) goes."""
    wanted = {"transferred_to": "", **expected} if "answered_by" in expected else expected
    said = summary(call)
    return all(
        said[name] == value for name, value in wanted.items() if name != "finals" and (not fields or name in fields)
    )


def unmatched(calls: list[Call], expected: list[dict[str, Any]], *fields: str) -> list[str]:
    """What is wrong with ``calls``: expectations that none fits, and calls that nobody expected. Empty when right."""
    left = list(calls)
    wrong = []
    for one in expected:
        for _ in range(one["finals"]):
            match = next((call for call in left if fits(call, one, *fields)), None)
            if match is None:
                wrong.append(f"missing {one}")
            else:
                left.remove(match)
    return [*wrong, *(f"unexpected {summary(call)}" for call in left)]


def hostile(post: Posted, **changes: Any) -> Posted:
    """``post`` with other values in its body."""
    return replace(post, body=json.dumps({**json.loads(post.body, strict=False), **changes}).encode())
