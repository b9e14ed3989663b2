"""Links to recordings: signed, running out, and leading to what the host told last."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callgram import Call, ConfigError, Context, Kind
from callgram.testing import lab
from callgram.testing.memory import MemoryStore
from callgram_recordings import Recordings, Settings, from_template

NOW = datetime(2025, 9, 14, 9, 5, 23, tzinfo=UTC)
BASE = "https://calls.example.com"
URL = "https://pbx.example.com/rec/1757840000.6.mp3"
CALL = {"Token": "t", "UniqueId": "1757840000.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
EVENTS = [("start", CALL), ("hangup", CALL | {"Extensions": ["151"], "CallStatus": "2", "Recording": "/rec/a b.wav"})]


def told(**changes: Any) -> Call:
    call = lab(Recordings).call(*EVENTS)
    return msgspec.structs.replace(call, **changes)


def linked(call: Call, **settings: Any) -> tuple[str, Any]:
    """The link of a call, and what its target is for a token, given the age that a link may have."""

    async def run() -> tuple[str, Any]:
        plugin, store = Recordings(), MemoryStore()
        ctx = Context(now=NOW, settings=Settings(**settings), store=store)
        await plugin.startup(ctx)
        found = await plugin.enrich_call(ctx, call)
        link = found.recording if found else ""
        token = link.rpartition("/")[2]
        return link, (
            await plugin.target_of(token, 60),
            await plugin.target_of(token[:-2] + "xx", 60),
            await plugin.target_of("x", 60),
        )

    return asyncio.run(run())


def test_a_link_is_ours_and_says_nothing_of_the_host() -> None:
    link, _ = linked(told(recording=URL), base_url=BASE)
    assert link.startswith(f"{BASE}/recording/")
    assert "pbx" not in link


def test_a_template_leads_to_the_recording_and_a_changed_link_nowhere() -> None:
    link, (target, changed, made_up) = linked(
        told(), base_url=BASE, url_template="https://pbx.example.com/{date}/{file}"
    )
    assert link
    assert (target, changed, made_up) == ("https://pbx.example.com/2025-09-14/a%20b.wav", "", "")


def test_a_link_runs_out() -> None:
    async def run() -> str:
        plugin = Recordings()
        ctx = Context(
            now=NOW, settings=Settings(base_url=BASE, url_template="https://p/{unique_id}"), store=MemoryStore()
        )
        await plugin.startup(ctx)
        found = await plugin.enrich_call(ctx, told())
        assert found is not None
        return await plugin.target_of(found.recording.rpartition("/")[2], -1)

    assert asyncio.run(run()) == ""


@pytest.mark.parametrize(
    "call",
    [
        pytest.param({"answered": False}, id="nobody talked"),
        pytest.param({"ended": False}, id="it goes on"),
        pytest.param({"recording": ""}, id="no file is told"),
    ],
)
def test_a_template_does_not_promise_what_may_not_be_there(call: dict[str, Any]) -> None:
    assert from_template("https://p/{file}", told(**call), "2025-09-14") == ""


def test_without_a_base_url_there_are_no_links() -> None:
    assert linked(told(recording=URL))[0] == ""


@pytest.mark.parametrize("name", ["base_url", "url_template"])
def test_only_web_addresses_are_taken(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        linked(told(), **{name: "javascript:x"})


def test_a_posted_recording_is_an_event_of_the_call() -> None:
    call = lab(Recordings).call(*EVENTS, ("recording", {"UniqueId": CALL["UniqueId"], "Url": URL}))
    assert (call.recording, call.ended_at) == (URL, told().ended_at)
    assert call.started_at + timedelta(seconds=1) == call.ended_at
    assert Kind.RECORDING == "recording"
