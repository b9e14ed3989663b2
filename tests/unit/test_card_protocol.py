"""The card protocol under everything that can happen: hypothesis explores, the world of card_world checks.

20 000 steps in every run of the suite; CALLGRAM_MODEL_STEPS=1000000 for a long one. Each broken build below is one line of the
protocol taken away, and must be found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from callgram import Stage

from .card_world import BOT, CHATS, World

STEPS = int(os.environ.get("CALLGRAM_MODEL_STEPS", "20000"))
OF_ONE_RUN = 50
STAGES = list(Stage)
ANSWERS = ("well",) * 6 + ("executed, unheard", "late", "broken", "flood", "shutdown", "not sent")
MAX_CALLS = 4


class CardProtocol(RuleBasedStateMachine):
    """Two nodes, three chats, a few calls."""

    world: World

    @initialize(policy=st.sampled_from(("resend", "probe")), mode=st.sampled_from(("replace", "edit")))
    def begin(self, policy: str, mode: Any) -> None:
        self.world = World(policy=policy, mode=mode)
        self.world.nodes[0].lease()
        self.world.plan(0, Stage.START)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()

    @rule(which=st.integers(0, 9), stage=st.sampled_from(STAGES))
    def plan(self, which: int, stage: Stage) -> None:
        """A call comes, goes on, or turns out to be at another stage than it seemed."""
        calls = [call for call, told in self.world.calls.items() if not told.into]
        if which >= len(calls):
            if len(self.world.calls) < MAX_CALLS:
                self.world.plan(0, stage)
            return
        told = self.world.calls[calls[which]]
        forward = stage.rank >= told.stage.rank or which % 2
        self.world.plan(calls[which], stage if forward else told.stage)

    @precondition(lambda self: len([told for told in self.world.calls.values() if not told.into]) > 1)
    @rule(stage=st.sampled_from(STAGES))
    def absorb(self, stage: Stage) -> None:
        """Two calls turn out to be one."""
        survivor, absorbed = [call for call, told in self.world.calls.items() if not told.into][:2]
        self.world.plan(survivor, stage, absorbed)

    @rule(at=st.integers(0, 1), fault=st.sampled_from(("", "", "", "", "before", "after")))
    def turn(self, at: int, fault: str) -> None:
        if not self.world.nodes[at].frozen:
            self.world.nodes[at].turn(fault)

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
            derandomize=STEPS == 20000,
            database=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_every_chat_converges_to_the_truth() -> None:
    explore(STEPS)
