"""Links to recordings: signed, running out, and leading to what the host told last."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callgram import (
    Audio,
    Call,
    CallFile,
    ConfigError,
    Context,
    Enterprise,
    Kind,
    Locale,
    Message,
    Secret,
    Stage,
    tell,
)
from callgram.calls.book import Book
from callgram.testing import lab
from callgram.testing.memory import MemoryStore
from callgram_recordings import Recordings, Settings, from_template

NOW = datetime(2025, 9, 14, 9, 5, 23, tzinfo=UTC)
BASE = "https://calls.example.com"
URL = "https://pbx.example.com/rec/1757840000.6.mp3"
TEMPLATE = "https://pbx.example.com/{date}/{file}?key=SECRET"
CALL = {"Token": "t", "UniqueId": "1757840000.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
EVENTS = (("start", CALL), ("hangup", CALL | {"Extensions": ["151"], "CallStatus": "2", "Recording": "/rec/a b.wav"}))
TOLD = ("recording", {"UniqueId": CALL["UniqueId"], "Url": URL})
LOCALE = Locale()


class OneCall(MemoryStore):
    """A store that has the one call that ``events`` tell, of the first enterprise that is put."""

    def __init__(self, *events: Any) -> None:
        super().__init__()
        book = Book(LOCALE.plan)
        for event in lab(Recordings).events(*events):
            book.apply(event)
        (self.facts,) = book.calls.values()

    async def call_file(self, enterprise: str, call_id: int, *, limit: int = 10_000) -> CallFile | None:
        known = call_id == self.facts.id and enterprise == self.facts.enterprise
        return CallFile(facts=self.facts, records=(), cards=(), channels=()) if known else None


def call_of(*events: Any, **changes: Any) -> Call:
    return msgspec.structs.replace(tell(OneCall(*events).facts, LOCALE.plan), **changes)


def linked(
    *events: Any, days: float = 0.0, off: bool = False, gone: bool = False, **settings: Any
) -> tuple[str, list[str]]:
    """The link of a call, and where it leads ``days`` later, changed, made up, and of another call or enterprise."""

    async def run() -> tuple[str, list[str]]:
        plugin, store, given = Recordings(), OneCall(*events), Settings(**settings)
        call = tell(store.facts, LOCALE.plan)
        if not gone:
            await store.put_enterprise(Enterprise(number=call.enterprise, token=Secret("t"), bot_token=Secret("1:b")))
        ctx = Context(now=NOW, settings=given, store=store)
        await plugin.startup(ctx)

        async def link_of(**changes: Any) -> str:
            found = await plugin.enrich_call(ctx, msgspec.structs.replace(call, **changes))
            return found.recording if found else ""

        async def target(token: str) -> str:
            later = datetime.now(UTC) + timedelta(days=days)
            found = await plugin.target_of(token, later, lambda _: None if off else (given, LOCALE))
            return found.url if found else ""

        link, *others = await link_of(), await link_of(enterprise="foreign"), await link_of(id=call.id + 1)
        token, *others = (one.rpartition("/")[2] for one in (link, *others))
        return link, [await target(one) for one in (token, f"{token[:-2]}xx", "x", "", *others)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("events", "settings", "target"),
    [
        pytest.param((*EVENTS, TOLD), {}, URL, id="told"),
        pytest.param(
            EVENTS, {"url_template": TEMPLATE}, "https://pbx.example.com/2025-09-14/a%20b.wav?key=SECRET", id="by rule"
        ),
        pytest.param((*EVENTS, TOLD), {"url_template": TEMPLATE}, URL, id="told, and a rule"),
    ],
)
def test_a_link_is_ours_leads_to_the_recording_and_no_other_link_does(
    events: Any, settings: dict[str, Any], target: str
) -> None:
    link, targets = linked(*events, base_url=BASE, **settings)
    assert link.startswith(f"{BASE}/recording/")
    assert targets == [target, "", "", "", "", ""]


def test_a_link_says_nothing_of_where_the_recording_is() -> None:
    for events in (EVENTS, (*EVENTS, TOLD)):
        link, _ = linked(*events, base_url=BASE, url_template=TEMPLATE)
        payload = link.rpartition("/")[2].partition(".")[0]
        read = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        assert not any(said in link.encode() + read for said in (b"pbx", b"SECRET", b"wav", b"mp3"))


@pytest.mark.parametrize("closed", [{"days": 15.0}, {"off": True}, {"gone": True}], ids=str)
def test_a_link_holds_for_its_days_while_the_enterprise_has_the_plugin(closed: dict[str, Any]) -> None:
    assert linked(*EVENTS, TOLD, base_url=BASE, days=13.0)[1][0] == URL
    assert linked(*EVENTS, TOLD, base_url=BASE, **closed)[1][0] == ""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"answered": False}, id="nobody talked"),
        pytest.param({"ended": False}, id="it goes on"),
        pytest.param({"recording": ""}, id="no file is told"),
    ],
)
def test_a_template_does_not_promise_what_may_not_be_there(changes: dict[str, Any]) -> None:
    assert from_template("https://p/{file}", call_of(*EVENTS, **changes), "2025-09-14") == ""


def test_without_a_base_url_there_are_no_links() -> None:
    assert linked(*EVENTS, TOLD)[0] == ""


@pytest.mark.parametrize("name", ["base_url", "url_template"])
def test_only_web_addresses_are_taken(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        linked(*EVENTS, **{name: "javascript:x"})


def test_a_posted_recording_is_an_event_of_the_call() -> None:
    before, call = call_of(*EVENTS), call_of(*EVENTS, TOLD)
    assert (call.recording, call.ended_at) == (URL, before.ended_at)
    assert before.started_at + timedelta(seconds=1) == call.ended_at
    assert Kind.RECORDING == "recording"


def audio_of(*events: Any, stage: Stage = Stage.HANGUP, call: dict[str, Any] | None = None, **settings: Any) -> Audio | None:
    ctx = Context(now=NOW, settings=Settings(**settings))
    drawn = Recordings().decorate_message(ctx, call_of(*events, **call or {}), stage, Message("text"))
    message = asyncio.run(drawn)
    assert message is None or message.digest == Message("text").digest
    return message.audio if message else None


def test_audio_is_wanted_behind_the_last_message_where_the_enterprise_wants_it() -> None:
    found = audio_of(*EVENTS, TOLD, audio="reply", allow_private=True, max_mb=7, timeout_s=3.0)
    assert found is not None
    assert (found.url, found.allow_private, found.max_mb, found.timeout_s) == (URL, True, 7, 3.0)
    assert found.title == "2025-09-14 12:05 +375 (29) 625-40-70"
    by_rule = audio_of(*EVENTS, audio="reply", url_template=TEMPLATE)
    assert by_rule is not None
    assert by_rule.url.endswith("a%20b.wav?key=SECRET")


@pytest.mark.parametrize(
    ("events", "settings"),
    [
        pytest.param((*EVENTS, TOLD), {}, id="links only"),
        pytest.param(EVENTS, {"audio": "reply"}, id="nobody knows of one"),
        pytest.param((*EVENTS, TOLD), {"audio": "reply", "stage": Stage.BRIDGE}, id="an earlier stage"),
        pytest.param((*EVENTS, TOLD), {"audio": "reply", "call": {"ended": False}}, id="the call goes on"),
    ],
)
def test_no_audio_is_wanted(events: Any, settings: dict[str, Any]) -> None:
    assert audio_of(*events, **settings) is None
