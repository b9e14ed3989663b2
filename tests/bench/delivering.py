"""The benchmarks of delivery: a burst against what the limits allow at best, and how long a bot is silent when its node dies."""

from __future__ import annotations

import asyncio
import time

from tests.bench.report import Result
from tests.chaos.town import FIRMS, Town, town, until
from tests.unit.sending_rig import GROUP, Rig, rig

from callgram import Stage
from callgram.cards import Urgency
from callgram.telegram.limits import LimitSettings
from callgram.trace import Op

PEOPLE = tuple(range(6000, 6006))
N_CALLS, BURST_S = 150, 1.0
TEN_TIMES = LimitSettings(private_per_s=10, private_burst=4, group_per_min=200, group_burst=6, bot_per_s=300)
"""Ten times Telegram's limits for a tenth of the time; half of the calls."""


async def flood() -> list[Result]:
    """Calls with three stages each, in a group and with six people, until every chat shows every call's end."""
    async with rig((GROUP, *PEOPLE), limits=TEN_TIMES) as made:
        began = time.monotonic()
        finals = await _burst(made)
        await made.until(lambda: made.texts(GROUP) == [*finals] or set(made.texts(GROUP)) == set(finals), 120.0)
        await made.until(lambda: all(set(made.texts(chat)) == set(finals) for chat in PEOPLE), 120.0)
        took_s = time.monotonic() - began
        n_calls = sum(one.op in {Op.SEND, Op.EDIT} for one in made.actions)
    least_s = (N_CALLS - TEN_TIMES.group_burst) * 60 / TEN_TIMES.group_per_min
    n_stages = 3 * N_CALLS
    fifo_s = (n_stages - TEN_TIMES.group_burst) * 60 / TEN_TIMES.group_per_min
    everything = n_stages * (len(PEOPLE) + 1)
    saved = 100 * (1 - n_calls / everything)
    return [
        Result(
            name="flood_vs_theory",
            value=took_s / least_s,
            bar=1.15,
            better="≤",
            detail=f"{took_s:.1f} s of {least_s:.1f} s at best, {fifo_s:.1f} s with every stage; {saved:.0f} % of calls saved",
        )
    ]


async def _burst(made: Rig) -> list[str]:
    """Answers what the chats show in the end."""
    finals = []
    for _ in range(N_CALLS):
        call = await made.plan(Stage.DIAL)
        await asyncio.sleep(BURST_S / N_CALLS / 2)
        await made.plan(Stage.BRIDGE, call)
        await asyncio.sleep(BURST_S / N_CALLS / 2)
        await made.plan(Stage.HANGUP, call, urgency=Urgency.REST)
        finals.append(f"{call} hangup")
    return finals


async def takeover() -> list[Result]:
    """Two nodes; the one that sends for a bot is killed while calls go on."""
    async with town(1, 2) as here:
        calls = asyncio.create_task(_calls(here))
        bot = FIRMS[0].bot
        await until(lambda: _n_sent(here, bot) > 10, "messages come", 30.0)
        owner = (await here.sql("SELECT owner FROM bot_lease WHERE bot_id = $1", bot))[0]["owner"]
        node = next(node for node in here.nodes if node.name == owner)
        killed_at = time.time()
        node.kill()
        await until(lambda: any(at > killed_at + 0.2 for at in _sent(here, bot)), "messages come again", 30.0)
        silent_s = min(at for at in _sent(here, bot) if at > killed_at + 0.2) - killed_at
        calls.cancel()
    return [
        Result(name="takeover_bot_s", value=silent_s, bar=8.0, better="≤", detail=f"{silent_s:.1f} s without a message")
    ]


async def _calls(here: Town) -> None:
    async with asyncio.TaskGroup() as group:
        for at in range(1_000):
            group.create_task(here.call(at))
            await asyncio.sleep(0.3)


def _sent(here: Town, bot: int) -> list[float]:
    return [one.at for one in here.truth() if one.bot_id == bot and one.kind == "send"]


def _n_sent(here: Town, bot: int) -> int:
    return len(_sent(here, bot))
