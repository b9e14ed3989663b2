"""The benchmarks of delivery: a burst against what the limits allow at best, and how long a bot is silent when its node dies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from tests.bench.report import Result
from tests.chaos.town import FIRMS, Firm, Town, town

from callgram import Message, Secret
from callgram.telegram import api
from callgram.telegram.limits import Limits, LimitSettings
from callgram.telegram.session import TelegramSession
from callgram.telegram.settings import SessionSettings
from callgram_simulator.settings import FloodSettings

SCALE = int(os.environ.get("CALLGRAM_BENCH_SCALE", "10"))
"""So much faster than Telegram's own are the limits, and so much shorter the burst. With 1 it takes a quarter of an hour."""
N_CALLS, BURST_S, STAGE_S = 300, 30.0 / SCALE, 5.0 / SCALE
"""Calls that come within ``BURST_S``; each rings and is answered ``STAGE_S`` later, and ends as much later."""
STAGES = ("dial", "bridge", "hangup")
GROUP = -1_001_000_000_403
OFFICE = Firm(number="0403", token="88005550403", bot=803, chats=(GROUP, *range(6000, 6030)))
LIMITS = LimitSettings(private_per_s=SCALE, group_per_min=20 * SCALE, bot_per_s=30 * SCALE)
FLOOD = FloodSettings(
    private_per_s=SCALE, group_per_minute=20 * SCALE, bot_per_s=30 * SCALE, bot_burst=30 * SCALE, held_s=8 / SCALE
)


async def flood() -> list[Result]:
    """300 calls in a group and with 30 people, until every chat shows every call's end: the real process and PostgreSQL. Beside
    it another bot tells a group of its own every stage in order, within the same limits."""
    least_s = max(
        (N_CALLS - LIMITS.group_burst) * 60 / LIMITS.group_per_min,
        (N_CALLS - LIMITS.private_burst) / LIMITS.private_per_s,
        N_CALLS * len(OFFICE.chats) / LIMITS.bot_per_s - 1,
    )
    async with town(1, 1, firms=(OFFICE,), limits=LIMITS, flood=FLOOD) as here:
        began = time.time()
        plain = _Fifo(here)
        telling = asyncio.create_task(plain.run())
        await _burst(here)
        await until(lambda: all(_shows_all_ends(here, chat) for chat in OFFICE.chats), 3 * least_s)
        telling.cancel()
        took_s = max(one.at for one in here.truth() if one.bot_id == OFFICE.bot and one.kind != "delete") - began
        await here.settled(30.0)
        [row] = await here.sql("SELECT count(*) AS n FROM telegram_actions WHERE op IN ('send', 'edit')")
    everything = len(STAGES) * N_CALLS * len(OFFICE.chats)
    fifo_s = (len(STAGES) * N_CALLS - LIMITS.group_burst) * 60 / LIMITS.group_per_min
    return [
        Result(
            name="flood_vs_theory",
            value=took_s / least_s,
            bar=1.15,
            better="≤",
            detail=f"{took_s:.1f} s of {least_s:.1f} s at best, with limits x{SCALE}; by then {plain.n_ends} of {N_CALLS} ends "
            f"where all stages come in order, {fifo_s:.0f} s in all; {row['n']} API calls for {everything} stages, "
            f"{100 * (1 - row['n'] / everything):.0f} % saved",
        )
    ]


async def _burst(here: Town) -> None:
    async with asyncio.TaskGroup() as group:
        for at in range(N_CALLS):
            group.create_task(_call(here, at))
            await asyncio.sleep(BURST_S / N_CALLS)


async def _call(here: Town, at: int) -> None:
    client, epoch = f"37529{6_100_000 + at}", 1_757_900_000 + at
    about = {"UniqueId": f"{epoch}.1", "Phone": client, "CallType": 0, "Trunk": "0001363"}
    leg = {"UniqueId": f"{epoch}.2", "BridgeUniqueid": f"bridge-{epoch}", "Channel": f"SIP/151-{epoch:08x}", "Exten": ""}
    told = (
        about | {"Extensions": ["150", "151"]},
        leg | {"CallerIDNum": "151", "ConnectedLineNum": client},
        about | {"Extensions": ["151"], "CallStatus": "2"},
    )
    for kind, fields in zip(STAGES, told, strict=True):
        await here.post(OFFICE, kind, fields, 1)
        await asyncio.sleep(STAGE_S)


def _shows_all_ends(here: Town, chat: int) -> bool:
    texts = here.visible(OFFICE, chat).values()
    return len(texts) == N_CALLS and all(text.startswith("✅") for text in texts)


class _Fifo:
    """Tells a group every stage of every call, one after another."""

    def __init__(self, here: Town) -> None:
        self.n_ends = 0
        self._url = here.simulator.url

    async def run(self) -> None:
        bot, chat, limits, began = OFFICE.bot + 1, GROUP - 1, Limits(LIMITS), time.monotonic()
        places = range(len(STAGES))
        told = sorted((call * BURST_S / N_CALLS + place * STAGE_S, place) for call in range(N_CALLS) for place in places)
        session = TelegramSession(SessionSettings(api_url=self._url))
        try:
            for due_s, place in told:
                ready = max(began + due_s, limits.ready_at(bot, chat, time.monotonic()))
                await asyncio.sleep(max(0.0, ready - time.monotonic()))
                limits.take(bot, chat, time.monotonic())
                await api.send_message(session, Secret(f"{bot}:bench"), chat, Message(STAGES[place]))
                self.n_ends += STAGES[place] == "hangup"
        finally:
            await session.close()


async def takeover() -> list[Result]:
    """Two nodes; the one that sends for a bot is killed while calls go on."""
    async with town(1, 2) as here:
        calls = asyncio.create_task(_calls(here))
        bot = FIRMS[0].bot
        await until(lambda: _n_sent(here, bot) > 10, 30.0)
        owner = (await here.sql("SELECT owner FROM bot_lease WHERE bot_id = $1", bot))[0]["owner"]
        node = next(node for node in here.nodes if node.name == owner)
        killed_at = time.time()
        node.down()
        await until(lambda: any(at > killed_at + 0.2 for at in _sent(here, bot)), 30.0)
        silent_s = min(at for at in _sent(here, bot) if at > killed_at + 0.2) - killed_at
        calls.cancel()
    return [
        Result(name="takeover_bot_s", value=silent_s, bar=8.0, better="≤", detail=f"{silent_s:.1f} s without a message")
    ]


async def until(condition: Callable[[], bool], deadline_s: float) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


async def _calls(here: Town) -> None:
    async with asyncio.TaskGroup() as group:
        for at in range(1_000):
            group.create_task(here.call(at))
            await asyncio.sleep(0.3)


def _sent(here: Town, bot: int) -> list[float]:
    return [one.at for one in here.truth() if one.bot_id == bot and one.kind == "send"]


def _n_sent(here: Town, bot: int) -> int:
    return len(_sent(here, bot))
