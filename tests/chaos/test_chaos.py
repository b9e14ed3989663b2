"""Everything goes wrong at once, in real processes; afterwards every chat shows the truth, once.

A run of a minute each for one node and for three. ``make chaos`` repeats with new seeds for CALLGRAM_CHAOS_S seconds.
A run that fails names its seed: CALLGRAM_CHAOS_SEED=N plays it again.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Any

import pytest

from callgram.telegram.limits import BOT_WINDOW_S
from callgram_simulator.truth import TruthEntry

from .town import Made, Town, town

SEED = int(os.environ.get("CALLGRAM_CHAOS_SEED", "0"))
LONG_S = float(os.environ.get("CALLGRAM_CHAOS_S", "0"))
PER_S = 30
SECOND = 1.0
UNREPORTED_S = 10.0  # so old what a killed node had not reported yet may be: the database was away, too


def digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def late(seen_at: float, asked_at: list[float]) -> bool:
    """A call that was longer on the way than a sender has to reckon with: the machine was busy with others."""
    since = max((at for at in asked_at if at <= seen_at), default=seen_at)
    return seen_at - since > BOT_WINDOW_S - SECOND


def how_far(text: str) -> int:
    """How late in its call a message is."""
    if text.startswith(("✅", "❌", "❔")):
        return 3
    return 2 if "⏱" in text else 1 if "☎️" in text else 0


class Ended:
    """What is left of a run, and what must hold in it."""

    def __init__(self, at: Town, actions: list[Any]) -> None:
        self.town, self.actions = at, actions
        self.truth = at.truth()
        sends = [one for one in actions if one["op"] == "send" and one["outcome"] == "ok"]
        self.traced = Counter((one["bot_id"], one["chat_id"], one["message_id"]) for one in sends)

    def lost(self, bot: int, chat: int, message_id: int) -> bool:
        """Executed, but nobody was ever told of it."""
        return not self.traced[bot, chat, message_id]

    def check(self) -> None:
        for call in self.town.calls:
            for chat in call.firm.chats:
                self.check_chat(call, chat)
                self.check_untold(call, chat)
        self.check_trace()
        self.check_rate()

    def check_chat(self, call: Made, chat: int) -> None:
        """One final message, of the final state; no leftovers, nothing overwritten. But for what was lost on the way."""
        shown = {
            message_id: text
            for message_id, text in self.town.visible(call.firm, chat).items()
            if call.client in digits(text)
        }
        known = {one: text for one, text in shown.items() if not self.lost(call.firm.bot, chat, one)}
        mark = "✅" if call.answered else "❌"
        where = f"chat {chat}, client {call.client}: {shown}"
        assert sum(text.startswith(mark) for text in shown.values()) >= 1, where
        assert len(known) <= 1, f"{where}: more than one that we know of"
        assert all(text.startswith(mark) for text in known.values()), f"{where}: a leftover"
        newest = 0
        for one in self.story(call, chat):
            place = how_far(one.text or "")
            if not self.lost(call.firm.bot, chat, one.message_id):
                assert place >= newest, f"{where}: {one.text!r} came behind a later state"
                newest = place

    def story(self, call: Made, chat: int) -> list[TruthEntry]:
        """What the chat was ever shown of the call, in order."""
        return [
            one
            for one in self.truth
            if one.bot_id == call.firm.bot and one.chat_id == chat and call.client in digits(one.text or "")
        ]

    def check_untold(self, call: Made, chat: int) -> None:
        """A send that is not in the trace was in doubt, and is counted as such; or it was in hand of a node that was killed."""
        untold = [
            one
            for one in self.story(call, chat)
            if one.kind == "send" and self.lost(call.firm.bot, chat, one.message_id) and not self.killed_behind(one.at)
        ]
        n_unsure = sum(
            one["outcome"] == "ambiguous" and one["chat_id"] == chat and call.client in digits(one["text"])
            for one in self.actions
            if one["op"] == "send"
        )
        assert len(untold) <= n_unsure, f"chat {chat}: {untold} are not in the trace, {n_unsure} were in doubt"

    def killed_behind(self, at: float) -> bool:
        return any(at <= killed_at <= at + UNREPORTED_S for killed_at in self.town.killed_at)

    def check_trace(self) -> None:
        """What is in the trace as sent was sent, once; edits and deletions that were executed are there, too."""
        sent = {(one.bot_id, one.chat_id, one.message_id) for one in self.truth if one.kind == "send"}
        assert self.traced.keys() <= sent, f"never sent: {self.traced.keys() - sent}"
        if not self.town.cruel_at:
            assert set(self.traced.values()) <= {1}
        told = {(one["op"], one["chat_id"], one["message_id"]) for one in self.actions}
        for one in self.truth:
            if one.kind != "send" and not self.lost(one.bot_id, one.chat_id, one.message_id):
                known = (one.kind, one.chat_id, one.message_id) in told
                assert known or self.killed_behind(one.at), f"not in the trace: {one}"

    def check_rate(self) -> None:
        """Not more than 30 calls in any second: by the clock of those who ask, and by that of Telegram, where we were awake,
        and of what was not late on the way."""
        for bot in {firm.bot for firm in self.town.firms}:
            asked = {
                (one["at"].timestamp(), one["op"], one["chat_id"], one["message_id"])
                for one in self.actions
                if one["bot_id"] == bot and one["op"] in {"send", "edit"} and not one["reason"].startswith(("found", "in hand"))
            }
            self.check_second(bot, sorted(at for at, *_ in asked if not self.asleep(at)), "asked")
            asked_at = defaultdict(list)
            for at, *what in asked:
                asked_at[tuple(what)].append(at)
            seen = [
                (one.at, asked_at[one.kind, one.chat_id, one.message_id])
                for one in self.truth
                if one.bot_id == bot and one.kind != "delete"
            ]
            awake = sorted(at for at, since in seen if not self.asleep(at) and not late(at, since))
            self.check_second(bot, awake, "seen")

    def asleep(self, at: float) -> bool:
        """We slept just before, so that it may have come earlier than we saw it."""
        return any(began <= at <= ended + 0.1 for began, ended in self.town.stalls)

    @staticmethod
    def check_second(bot: int, times: list[float], how: str) -> None:
        for at, began in enumerate(times):
            n_calls = bisect_left(times, began + SECOND) - at
            assert n_calls <= PER_S, f"{n_calls} calls of bot {bot} are {how} within a second"


async def run(
    seed: int,
    n_nodes: int,
    *,
    n_calls: int,
    n_workers: int = 1,
    misfortunes: int = 8,
    broken: str = "",
    patience_s: float = 120.0,
) -> None:
    async with town(seed, n_nodes, n_workers=n_workers, broken=broken) as here:
        try:
            await _play(here, n_calls, misfortunes, patience_s)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {n_nodes} nodes of {n_workers}: {error}") from None


async def _play(here: Town, n_calls: int, misfortunes: int, patience_s: float) -> None:
    calls = []
    for at in range(n_calls):
        calls.append(asyncio.create_task(here.call(at)))
        await asyncio.sleep(here.random.choice((0.0, 0.1, 0.5)))
    if misfortunes:
        frozen = asyncio.create_task(here.freeze(here.nodes[-1], 9.0)) if len(here.nodes) > 1 else None
        for _ in range(misfortunes):
            await here.misfortune()
            await asyncio.sleep(here.random.uniform(0.1, 1.5))
        if frozen is not None:
            await frozen
    if len(here.nodes) > 1:
        await here.lose_owner()
        calls.append(asyncio.create_task(here.call(n_calls)))
    await asyncio.gather(*calls)
    here.simulator.state.faults.clear()
    await check_planned(here, patience_s)
    await here.settled(patience_s)
    parked = await here.sql("SELECT kind, failed FROM call_events WHERE failed IS NOT NULL")
    assert not parked, parked
    actions = await here.sql("SELECT * FROM telegram_actions")
    Ended(here, actions).check()


async def check_planned(here: Town, patience_s: float) -> None:
    """Every event was planned, once. The database itself counts."""
    await here.until_sql("SELECT NOT EXISTS (SELECT FROM call_events WHERE NOT done)", patience_s)
    twice = await here.sql("SELECT id, count(*) FROM planned GROUP BY id HAVING count(*) > 1")
    assert not twice, f"planned more than once: {twice}"
    never = await here.sql("SELECT id FROM call_events AS e WHERE NOT EXISTS (SELECT FROM planned AS p WHERE p.id = e.id)")
    assert not never, f"never planned: {never}"


@pytest.mark.parametrize(("n_nodes", "n_workers"), [(1, 1), (3, 1), (2, 2)])
def test_every_chat_shows_the_truth_whatever_happened(n_nodes: int, n_workers: int) -> None:
    asyncio.run(run(SEED or 7, n_nodes, n_workers=n_workers, n_calls=6, misfortunes=3 if n_nodes == 1 else 5))


@pytest.mark.skipif(not LONG_S, reason="hours, by hand: make chaos")
def test_for_hours() -> None:
    seed, deadline = SEED or int(time.time()), time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        print("seed", seed, time.ctime(), flush=True)  # noqa: T201 - for whoever waits
        asyncio.run(run(seed, 1 + 2 * (seed % 2), n_workers=1 + seed // 2 % 2, n_calls=25, patience_s=240.0))
        seed += 1


@pytest.mark.skipif(not LONG_S, reason="minutes: make chaos")
@pytest.mark.parametrize(
    ("broken", "n_nodes", "says"),
    [
        ("leaves outdated messages", 1, "more than one that we know of"),
        ("tells the trace nothing", 1, "not in the trace"),
        ("has no budget", 1, "within a second"),
        ("forgets what it planned", 1, "chat 4"),
        ("sends everything twice", 1, "not in the trace"),
        ("goes back", 1, "came behind a later state"),
        ("plans without the fence", 3, "planned more than once"),
        ("takes nothing over", 3, "it does not come to rest"),
    ],
)
def test_a_broken_build_is_found(broken: str, n_nodes: int, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        asyncio.run(run(3, n_nodes, n_calls=12, misfortunes=0, broken=broken, patience_s=25.0))
