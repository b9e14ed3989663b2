"""The card protocol under everything that can happen: hypothesis explores, the world of card_world checks.

20 000 steps in every run of the suite; CALLGRAM_MODEL_STEPS=1000000 for a long one. Each broken build below is one line of the
protocol taken away, and must be found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from loguru import logger

from callgram import Message, Stage, delivery, sender
from callgram.cards import Card, Delete, Nothing, Search, Send, Shown, Step, next_step
from callgram.delivery import Delivery
from callgram.sender import AT_ONCE, Round
from callgram.store import CardRow, Claim
from callgram.testing import memory, memory_data
from callgram.testing.memory import MemoryStore

from .card_world import CHATS, World

STEPS = int(os.environ.get("CALLGRAM_MODEL_STEPS", "20000"))
OF_ONE_RUN = 50
STAGES = list(Stage)
ANSWERS = ("well",) * 6 + ("executed, unheard", "late", "broken", "flood", "shutdown", "not sent")
MAX_CALLS = 4
PLANNERS = (None, 0, 1)


@pytest.fixture(autouse=True)
def an_error_in_the_log_ends_the_test() -> Iterator[None]:
    """The sender catches everything, says it loudly and goes on. Here it does not."""

    def fail(message: Any) -> None:
        raise AssertionError(message.record["message"]) from message.record["exception"].value

    sink = logger.add(fail, level="ERROR", catch=False)
    yield
    logger.remove(sink)


class CardProtocol(RuleBasedStateMachine):
    """Two nodes, three chats, a few calls."""

    world: World

    @initialize(policy=st.sampled_from(("resend", "probe")), mode=st.sampled_from(("replace", "edit")))
    def begin(self, policy: str, mode: Any) -> None:
        self.world = World(policy=policy, mode=mode)
        self.world.nodes[0].lease()
        self.world.nodes[0].turn()
        self.world.plan(0, Stage.START)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.settle()
            finally:
                self.world.close()

    @precondition(lambda self: not self.world.planners())
    @rule(which=st.integers(0, 9), stage=st.sampled_from(STAGES), by=st.sampled_from(PLANNERS), slow=st.booleans())
    def plan(self, which: int, stage: Stage, by: int | None, slow: bool) -> None:
        """A call comes, goes on, or turns out to be at another stage than it seemed."""
        calls = [call for call, told in self.world.calls.items() if not told.into]
        if which < len(calls):
            told = self.world.calls[calls[which]]
            forward = stage.rank >= told.stage.rank or which % 2
            self._plan(by, slow, calls[which], stage if forward else told.stage)
        elif len(self.world.calls) < MAX_CALLS:
            self._plan(by, slow, 0, stage)

    @precondition(lambda self: not self.world.planners())
    @precondition(lambda self: len([told for told in self.world.calls.values() if not told.into]) > 1)
    @rule(stage=st.sampled_from(STAGES), by=st.sampled_from(PLANNERS), slow=st.booleans())
    def absorb(self, stage: Stage, by: int | None, slow: bool) -> None:
        """Two calls turn out to be one."""
        survivor, absorbed = [call for call, told in self.world.calls.items() if not told.into][:2]
        self._plan(by, slow, survivor, stage, absorbed)

    def _plan(self, by: int | None, slow: bool, *what: Any) -> None:
        """A process without a sender plans, or a node. A ``slow`` commit ends later."""
        if by is None or self.world.nodes[by].frozen:
            self.world.plan(*what)
            return
        self.world.nodes[by].plan(*what)
        if not slow:
            self.world.nodes[by].commit()

    @precondition(lambda self: self.world.planners())
    @rule(how=st.sampled_from(("", "", "", "before", "after", "dies")), executed=st.booleans())
    def commit(self, how: str, executed: bool) -> None:
        [node] = self.world.planners()
        node.commit("unheard" if how == "dies" else how)
        if how == "dies":
            self.world.kill(node, executed)

    @rule(
        at=st.integers(0, 1),
        fault=st.sampled_from(("", "", "", "", "before", "after")),
        per_chat=st.sampled_from((1, 1, 2, AT_ONCE)),
    )
    def turn(self, at: int, fault: str, per_chat: int) -> None:
        if not self.world.nodes[at].frozen:
            self.world.nodes[at].turn(fault, per_chat)

    @rule(at=st.integers(0, 1), job=st.integers(0, 2), how=st.sampled_from(ANSWERS))
    def answer(self, at: int, job: int, how: str) -> None:
        node = self.world.nodes[at]
        asking = node.asking()
        if asking:
            self.world.answer(node, asking[job % len(asking)], how)

    @rule(at=st.integers(0, 1), job=st.integers(0, 2))
    def answer_well(self, at: int, job: int) -> None:
        self.answer(at, job, "well")

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0, 1.0, 3.0, 7.0, 15.0)))
    def tick(self, seconds: float) -> None:
        """Time passes; nodes that are well keep their leases."""
        self.world.tick(seconds)
        for node in self.world.nodes:
            if not node.frozen:
                node.lease()

    @rule(at=st.integers(0, 1), executed=st.booleans())
    def kill(self, at: int, executed: bool) -> None:
        self.world.kill(self.world.nodes[at], executed)

    @rule(at=st.integers(0, 1))
    def freeze_or_thaw(self, at: int) -> None:
        node = self.world.nodes[at]
        if node.frozen:
            node.thaw()
        else:
            node.frozen = True

    @rule(chat=st.sampled_from(CHATS), block=st.booleans())
    def person(self, chat: int, block: bool) -> None:
        """A person writes, which takes a message id; or blocks the bot for a while."""
        telegram = self.world.telegram
        if block and chat > 0:
            telegram.blocked ^= {chat}
        else:
            telegram.new_id(chat)


def explore(steps: int, **more: Any) -> None:
    run_state_machine_as_test(
        CardProtocol,
        settings=settings(
            max_examples=max(1, steps // OF_ONE_RUN),
            stateful_step_count=OF_ONE_RUN,
            deadline=None,
            derandomize=STEPS == 20_000,
            database=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_every_chat_converges_to_the_truth() -> None:
    explore(STEPS)


# Broken builds: what is taken away, and what stands in its place


def deletes_first(card: Card, message: Message | None, *, search_first: bool = False) -> Step:
    old = [shown.message_id for shown in card.shown if shown is not card.current and not shown.is_orphan]
    return Delete(tuple(old)) if old else next_step(card, message, search_first=search_first)


def resends_transient(card: Card, message: Message | None, *, search_first: bool = False) -> Step:
    step = next_step(card, message, search_first=search_first)
    return Send(message) if message and isinstance(step, Nothing) and "may have been sent" in step.reason else step


def never_searches(card: Card, message: Message | None, *, search_first: bool = False) -> Step:
    step = next_step(card, message)
    return Nothing("") if isinstance(step, Search) else step


def sends_what_was_shown(card: Card, message: Message, message_id: int, now: datetime) -> Card:
    return card


def trusts_what_it_finds(card: Card, orphan: Shown, message_id: int | None) -> Card:
    shown = tuple(
        msgspec.structs.replace(old, message_id=message_id) if old is orphan else old
        for old in card.shown
        if message_id or old is not orphan
    )
    return msgspec.structs.replace(card, shown=shown)


def no_budget(self: Delivery) -> None:
    return None


def keeps_nothing_free(self: Round, pair: tuple[int, int]) -> bool:
    self._jobs.setdefault(pair, 1)
    return True


def frees_nothing(self: Round, cards: list[CardRow], claims: list[Claim]) -> None:
    self._start(claims)


def all_ended(pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    return dict.fromkeys(pairs, AT_ONCE)


def yes(*_: Any) -> bool:
    return True


def nothing(*_: Any, **__: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("place", "name", "broken"),
    [
        pytest.param(delivery, "next_step", deletes_first, id="deletes the old message first"),
        pytest.param(delivery, "next_step", never_searches, id="does not look for lost messages"),
        pytest.param(delivery, "sent", sends_what_was_shown, id="does not remember what it sent"),
        pytest.param(Card, "outdated", lambda self: (), id="leaves outdated messages"),
        pytest.param(Delivery, "_budget", no_budget, id="has no budget"),
        pytest.param(Delivery, "_take_over", nothing, id="takes over as if nothing had been in flight"),
        pytest.param(Delivery, "_note", nothing, id="tells the trace nothing"),
        pytest.param(Round, "reserve", keeps_nothing_free, id="hands over what goes to a busy chat"),
        pytest.param(Round, "settle", frees_nothing, id="keeps a chat for what was not handed over"),
        pytest.param(sender, "Counter", all_ended, id="takes one card's end for the end of all in hand"),
    ],
)
def test_a_broken_build_is_found(place: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError):
        explore(200_000, phases=[Phase.generate], report_multiple_bugs=False)  # ends with the first find


# What exploration found once, or finds rarely: the shortest way there, and the build that fails it


def well(world: World, at: int = 0) -> None:
    """The node claims what is due, and all that it asks is answered."""
    node = world.nodes[at]
    node.turn()
    while node.asking():
        world.answer(node, node.asking()[0], "well")
    node.turn()


def answered(world: World, how: str, at: int = 0) -> None:
    node = world.nodes[at]
    node.turn()
    for job in node.asking():
        world.answer(node, job, how)
    node.turn()


def begun(**more: Any) -> World:
    world = World(**more)
    world.nodes[0].lease()
    return world


def a_passing_stage_may_be_there(world: World) -> None:
    call = world.plan(0, Stage.DIAL)
    answered(world, "executed, unheard")
    world.plan(call, Stage.DIAL)
    well(world)


def two_calls_lose_a_message_each(world: World) -> None:
    world.plan(0, Stage.HANGUP)
    well(world)
    world.tick(1.0)
    for stage in (Stage.DIAL, Stage.HANGUP):
        world.plan(0, stage)
        answered(world, "executed, unheard")
        world.tick(1.0)
        world.nodes[0].lease()
    for _ in range(14):
        world.tick(1.0)
        world.nodes[0].lease()
        well(world)


def a_search_is_frozen_and_goes_on(world: World) -> None:
    world.plan(0, Stage.HANGUP)
    well(world)
    call = world.plan(0, Stage.HANGUP)
    answered(world, "broken")
    for _ in range(11):
        world.tick(1.0)
        world.nodes[0].lease()
    world.nodes[0].turn()
    world.nodes[0].frozen = True
    world.tick(9.0)
    for _ in range(40):
        world.nodes[1].lease()
        well(world, 1)
        world.tick(1.0)
    world.plan(call, Stage.HANGUP)
    well(world, 1)
    world.nodes[0].thaw()
    for _ in range(40):
        for job in world.nodes[0].asking():
            world.answer(world.nodes[0], job, "well")
        world.tick(1.0)


def a_call_is_absorbed_while_the_database_goes(world: World) -> None:
    part = world.plan(0, Stage.DIAL)
    well(world)
    world.tick(1.5)
    world.nodes[0].lease()
    call = world.plan(0, Stage.DIAL)
    world.nodes[0].turn()
    world.plan(call, Stage.BRIDGE, absorbed=part)
    for job in world.nodes[0].asking():
        world.answer(world.nodes[0], job, "well")
    world.tick(1.5)
    world.nodes[0].turn("after")


def a_frozen_node_reports_late(world: World) -> None:
    call = world.plan(0, Stage.DIAL)
    world.nodes[0].turn()
    world.nodes[0].frozen = True
    for job in world.nodes[0].asking():
        world.answer(world.nodes[0], job, "well")
    world.tick(7.0)
    world.nodes[1].lease()
    world.plan(call, Stage.HANGUP)
    world.tick(1.1)
    well(world, 1)
    world.nodes[0].thaw()
    world.nodes[0].turn()


def an_absorbed_call_shows_what_was_in_hand(world: World) -> None:
    part = world.plan(0, Stage.BRIDGE)
    well(world)
    world.tick(1.0)
    world.nodes[0].lease()
    call = world.plan(0, Stage.BRIDGE)
    world.nodes[0].turn()
    world.kill(world.nodes[0], executed=True)
    world.plan(call, Stage.BRIDGE, absorbed=part)


def a_card_waits_behind_a_slow_one(world: World) -> None:
    world.plan(0, Stage.HANGUP)
    call = world.plan(0, Stage.DIAL)
    world.nodes[0].turn(per_chat=2)
    world.plan(call, Stage.HANGUP)
    world.tick(1.0)
    for job in world.nodes[0].asking():
        world.answer(world.nodes[0], job, "well")


RARE = [
    pytest.param(a_card_waits_behind_a_slow_one, Delivery, "_stale", nothing, id="sends what waited as it was claimed"),
    pytest.param(a_passing_stage_may_be_there, delivery, "next_step", resends_transient, id="sends a passing stage again"),
    pytest.param(two_calls_lose_a_message_each, delivery, "found", trusts_what_it_finds, id="takes what it finds for its own"),
    pytest.param(a_search_is_frozen_and_goes_on, Delivery, "_holds", yes, id="forgets the fence"),
    pytest.param(a_call_is_absorbed_while_the_database_goes, memory, "ids_told", lambda report: None, id="overwrites"),
    pytest.param(a_frozen_node_reports_late, MemoryStore, "_gain", nothing, id="drops what is reported late"),
    pytest.param(an_absorbed_call_shows_what_was_in_hand, memory_data, "_has", yes, id="takes another's for its own"),
]


@pytest.mark.parametrize("policy", ["resend", "probe"])
@pytest.mark.parametrize(("play", "place", "name", "broken"), RARE)
def test_what_is_rare_ends_well(play: Callable[[World], None], place: Any, name: str, broken: Any, policy: str) -> None:
    world = begun(policy=policy)
    play(world)
    world.settle()


@pytest.mark.parametrize(("play", "place", "name", "broken"), RARE)
def test_a_build_that_is_broken_where_it_is_rare_is_found(
    play: Callable[[World], None], place: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError):
        whole(play)


def whole(play: Callable[[World], None]) -> None:
    world = begun(policy="probe")
    try:
        play(world)
        world.settle()
    finally:
        world.close()
