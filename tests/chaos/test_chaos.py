"""Everything goes wrong at once, in real processes; afterwards every chat shows the truth, once.

A run of half a minute each for one node and for three. ``make chaos`` repeats with new seeds for CALLGRAM_CHAOS_S seconds.
A run that fails names its seed: CALLGRAM_CHAOS_SEED=N plays it again.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from bisect import bisect_right
from collections import Counter
from typing import Any

import pytest

from .town import Made, Town, town

SEED = int(os.environ.get("CALLGRAM_CHAOS_SEED", "0"))
LONG_S = float(os.environ.get("CALLGRAM_CHAOS_S", "0"))
PER_S = 30


def digits(text: str) -> str:
    return re.sub(r"\D", "", text)


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
        story = [
            (one.message_id, one.text or "")
            for one in self.truth
            if one.bot_id == call.firm.bot and one.chat_id == chat and call.client in digits(one.text or "")
        ]
        ended = next((at for at, (_, text) in enumerate(story) if text.startswith(mark)), len(story))
        later = [one for one in story[ended:] if not one[1].startswith(mark) and not self.lost(call.firm.bot, chat, one[0])]
        assert not later, f"{where}: after its end {later}"

    def check_trace(self) -> None:
        """What is in the trace as sent was sent, once; what was sent and is not there was in doubt."""
        sent = {(one.bot_id, one.chat_id, one.message_id) for one in self.truth if one.kind == "send"}
        assert self.traced.keys() <= sent, f"never sent: {self.traced.keys() - sent}"
        if not self.town.n_cruel:
            assert set(self.traced.values()) <= {1}
            unsure = sum(one["outcome"] == "ambiguous" for one in self.actions)
            assert len(sent - self.traced.keys()) <= unsure, f"untold: {sent - self.traced.keys()}"
        missing = len(sent - self.traced.keys())
        assert missing <= len(sent) / 4 + 5, f"{missing} of {len(sent)} sends are not in the trace"

    def check_rate(self) -> None:
        for firm_bot in {one.bot_id for one in self.truth}:
            times = sorted(one.at for one in self.truth if one.bot_id == firm_bot and one.kind != "delete")
            for at, began in enumerate(times):
                n_calls = bisect_right(times, began + 0.95) - at  # the way to Telegram takes up to 50 ms
                assert n_calls <= PER_S, f"{n_calls} calls of bot {firm_bot} within a second"


async def run(
    seed: int,
    n_nodes: int,
    *,
    n_calls: int,
    cruel: bool,
    misfortunes: int = 8,
    broken: str = "",
    patience_s: float = 60.0,
) -> None:
    async with town(seed, n_nodes, broken=broken) as here:
        try:
            await _play(here, n_calls, misfortunes if cruel else 0, patience_s)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {n_nodes} nodes: {error}") from None


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
    await asyncio.gather(*calls)
    here.simulator.state.faults.clear()
    await here.settled(patience_s)
    parked = await here.sql("SELECT kind, failed FROM call_events WHERE failed IS NOT NULL")
    assert not parked, parked
    actions = await here.sql("SELECT * FROM telegram_actions")
    Ended(here, actions).check()


@pytest.mark.parametrize("n_nodes", [1, 3])
def test_every_chat_shows_the_truth_whatever_happened(n_nodes: int) -> None:
    asyncio.run(run(SEED or 7, n_nodes, n_calls=6, cruel=True, misfortunes=3 if n_nodes == 1 else 5))


@pytest.mark.skipif(not LONG_S, reason="hours, by hand: make chaos")
def test_for_hours() -> None:
    seed, deadline = SEED or int(time.time()), time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        asyncio.run(run(seed, 1 + 2 * (seed % 2), n_calls=25, cruel=True, patience_s=240.0))
        seed += 1


@pytest.mark.skipif(not LONG_S, reason="a minute and more: make chaos")
@pytest.mark.parametrize(
    "broken",
    [
        "leaves outdated messages",
        "tells the trace nothing",
        "has no budget",
        "forgets what it planned",
        "sends everything twice",
    ],
)
def test_a_broken_build_is_found(broken: str) -> None:
    with pytest.raises(AssertionError):
        asyncio.run(run(3, 1, n_calls=12, cruel=False, broken=broken, patience_s=25.0))
