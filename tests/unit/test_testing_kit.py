"""The testing kit does what a plugin's author expects of it: the real loader, the real call model, the whole service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

import callgram_hangup
from callgram import Chat, ConfigError, Direction, Enterprise, Event, Result, Secret, Stage, hookimpl
from callgram.testing import read, replay_all, service
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

MISSED = Path(__file__).parents[1] / "data/scenarios/incoming-missed.json"


def test_a_recording_becomes_a_call_and_a_plugin_draws_it(callgram_lab) -> None:
    lab = callgram_lab(callgram_hangup)
    call = lab.call(MISSED)
    assert (call.direction, call.result, call.client) == (Direction.INCOMING, Result.MISSED, "375296254070")
    assert lab.plan(call).stage is Stage.HANGUP
    assert lab.render(call, Stage.HANGUP).html.startswith("❌Пропущенный входящий звонок\n💰+375 (29) 625-40-70")
    assert lab.render(call, Stage.DIAL) is None


def test_events_are_told_a_second_apart_and_two_calls_are_not_one(callgram_lab) -> None:
    lab = callgram_lab(callgram_hangup)
    one, other = (("start", {"UniqueId": f"1.{n}", "Phone": f"37529625407{n}", "CallType": 0}) for n in (1, 2))
    first, second = lab.events(one, other)
    assert (second.received_at - first.received_at).total_seconds() == 1
    with pytest.raises(ValueError, match="2 calls"):
        lab.call(one, other)
    assert [call.client for call in lab.calls(one, other)] == ["375296254071", "375296254072"]


def test_what_callgram_would_refuse_the_lab_refuses(callgram_lab) -> None:
    @hookimpl
    def on_event(ctx, event) -> None: ...

    with pytest.raises(ValueError, match="async def"):
        callgram_lab(SimpleNamespace(__name__="late", on_event=on_event))
    with pytest.raises(ConfigError, match="show_lin"):
        callgram_lab(callgram_hangup, settings={"show_lin": False})


def test_a_sink_is_started_fed_in_order_and_shut_down(callgram_lab) -> None:
    told: list[object] = []

    class Sink:
        @hookimpl
        async def startup(self, ctx) -> None:
            told.append("startup")

        @hookimpl
        async def on_event(self, ctx, event: Event) -> None:
            told.append(event.kind)

        @hookimpl
        async def shutdown(self, ctx) -> None:
            told.append("shutdown")

    lab = callgram_lab(Sink)
    lab.feed(lab.events(MISSED))
    assert told == ["startup", "start", "new_callerid", "dial", "hangup", "shutdown"]


def test_the_service_brings_a_posted_call_to_its_chat(callgram_service) -> None:
    assert callgram_service is service
    enterprise = Enterprise(number="1", token=Secret("375290000001"), bot_token=Secret("7001:" + "A" * 35))

    async def run() -> list[str | None]:
        no_flood = SimulatorSettings(port=0, flood=FloodSettings(enabled=False))
        async with Simulator(no_flood) as telegram:
            async with service(telegram_url=telegram.url, enterprises=[(enterprise, [Chat(id=5)])]) as running:
                posts = read(MISSED)
                with telegram.state.feed.watch() as changes:
                    played = await replay_all([posts], running.url, speed=100)
                    assert (played.n_posted, played.n_refused) == (len(posts), 0)
                    while not any("❌" in (entry.text or "") for entry in telegram.state.truth):
                        await changes.get()
            records = telegram.state.dialog(telegram.state.bot(7001), 5).own_records
            return [record.message.text for record in records.values()]

    (only,) = asyncio.run(asyncio.wait_for(run(), 20))
    assert only is not None
    assert only.startswith("❌Пропущенный входящий звонок")


def test_settings_of_the_service_can_be_changed() -> None:
    async def run() -> int | None:
        async with service(telegram_url="http://127.0.0.1:9", superuser=77) as running:
            return msgspec.structs.asdict(running.settings)["superuser"]

    assert asyncio.run(run()) == 77
