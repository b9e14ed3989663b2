"""Audio that follows a final message: fetched beside the texts, sent once into each chat, uploaded once for each bot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from callgram import Audio, Message, Stage
from callgram.audio import MB, form_of
from callgram.cards import (
    NO_AUDIO,
    Card,
    Delete,
    Edit,
    Follow,
    Nothing,
    Reply,
    Search,
    Send,
    Shown,
    Step,
    next_step,
    with_audio,
)
from callgram.context import Mode
from callgram.replies import MAX_OF_HOST
from callgram.telegram import api
from callgram.trace import Action, Op
from callgram_simulator.truth import TruthEntry

from .sending_rig import CHAT, GROUP, ROOMY, Rig, rig

OGG = b"OggS" + bytes(24) + b"OpusHead" + bytes(3000)
MP3 = b"ID3" + bytes(9000)
WAV = b"RIFF" + bytes(4) + b"WAVE" + bytes(500)
FORMS = [
    pytest.param(OGG, "audio/ogg", "voice", id="voice"),
    pytest.param(MP3, "audio/mpeg", "audio", id="mp3"),
    pytest.param(b"\xff\xfb" + bytes(9), "audio/mpeg", "audio", id="mp3 without tags"),
    pytest.param(bytes(4) + b"ftypM4A " + bytes(99), "audio/mp4", "audio", id="m4a"),
    pytest.param(WAV, "audio/x-wav", "document", id="wav"),
    pytest.param(WAV, "audio/mpeg", "document", id="wav that says it is mp3"),
    pytest.param(b"OggS" + bytes(99), "audio/ogg", "document", id="ogg without opus"),
    pytest.param(b"\xff\xf1" + bytes(99), "audio/aac", "document", id="aac"),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callgram.replying.FETCH_POLL_S", 0.02)
    monkeypatch.setattr("callgram.replying.UPLOAD_POLL_S", 0.1)
    monkeypatch.setattr("callgram.replying.SEARCH_PAUSE_S", 0.05)
    monkeypatch.setattr("callgram.replying.FETCH_AGAIN_S", (0.05, 0.05))
    monkeypatch.setattr("callgram.replies.FAILED_S", 0.0)


class Host:
    """Where the recordings are. ``answers`` go out one after another, the last one for ever."""

    def __init__(self, *answers: web.Response | None) -> None:
        self._answers = list(answers)
        self.n_asked = 0
        self.hung = asyncio.Event()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.n_asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            await self.hung.wait()
            raise web.HTTPGone
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    def audio(self, **more: Any) -> Audio:
        return Audio(**{"url": self.url, "title": "Звонок 375296254070", "allow_private": True, **more})


def file(body: bytes = MP3, media_type: str = "audio/mpeg", status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type=media_type)


def played(test: Callable[[Rig, Host], Awaitable[None]], *answers: web.Response | None, **options: Any) -> None:
    chats = options.pop("chats", (CHAT,))

    async def run() -> None:
        host = Host(*answers or (file(),))
        app = web.Application()
        app.router.add_get("/secret-place/1.mp3", host.answer)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host.url = f"http://127.0.0.1:{runner.addresses[0][1]}/secret-place/1.mp3"
        try:
            async with rig(chats, **options) as made:
                await test(made, host)
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(run(), 60))


def replies(made: Rig, chat: int = CHAT) -> list[TruthEntry]:
    return [one for one in made.simulator.state.truth if one.chat_id == chat and one.media]


def told(made: Rig) -> list[Action]:
    return [one for one in made.actions if one.text.startswith("🔉")]


def cards(made: Rig) -> list[Any]:
    return [stored.card for stored in made.store._db.cards.values()]


def at_rest(made: Rig) -> bool:
    return made.idle() and all(card.due_at is None for card in cards(made))


@pytest.mark.parametrize(("body", "media_type", "field"), FORMS)
def test_audio_has_the_form_that_telegram_plays(body: bytes, media_type: str, field: str) -> None:
    assert form_of(body, media_type).field == field


@pytest.mark.parametrize("mode", ["replace", "edit"])
@pytest.mark.parametrize(("body", "media_type", "field"), [FORMS[0], FORMS[1], FORMS[4]])
def test_audio_is_a_reply_to_the_last_message_once(body: bytes, media_type: str, field: str, mode: Mode) -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.DIAL)
        await made.shows(f"{call} dial")
        await made.plan(Stage.HANGUP, call, audio=host.audio())
        await made.until(lambda: replies(made) and at_rest(made))
        (final,) = [number for number, one in made.dialog().records.items() if one.message.text == f"{call} hangup"]
        (sent,) = replies(made)
        assert (sent.media, sent.reply_to) == (field, final)
        assert made.simulator.state.files[sent.file_id or ""].body == body
        await made.plan(Stage.HANGUP, call, draws="changed")
        await made.until(lambda: "changed" in made.texts() and at_rest(made))
        assert len(replies(made)) == 1
        assert sorted(made.dialog().records) == [final, sent.message_id], "nothing else is there, and neither is gone"
        (action,) = told(made)
        assert (action.op, action.outcome, action.stage) == (Op.SEND, "ok", Stage.HANGUP)
        assert (action.message_id, field in action.text) == (sent.message_id, True)

    played(test, file(body, media_type), mode=mode)


def test_one_upload_serves_all_chats_of_a_bot() -> None:
    async def test(made: Rig, host: Host) -> None:
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: all(replies(made, chat) for chat in (CHAT, 42, GROUP)) and at_rest(made))
        assert host.n_asked == 1
        assert len({replies(made, chat)[0].file_id for chat in (CHAT, 42, GROUP)}) == 1

    played(test, chats=(CHAT, 42, GROUP))


def test_an_id_that_telegram_forgot_is_uploaded_again() -> None:
    async def test(made: Rig, host: Host) -> None:
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: replies(made) and at_rest(made))
        made.simulator.state.files.clear()
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: len(replies(made)) == 2 and at_rest(made))
        assert [one.outcome for one in told(made)] == ["ok", "rejected", "ok"]

    played(test)


REFUSED = [
    pytest.param(file(bytes(2 * MB)), {"max_mb": 1}, "it is longer than 1 MB", id="too long"),
    pytest.param(file(media_type="text/html"), {}, "it is not audio", id="a page"),
    pytest.param(file(), {"allow_private": False}, "the address is not public", id="a private address"),
    pytest.param(web.Response(status=302, headers={"Location": "/x"}), {}, "its server answers 302", id="elsewhere"),
    pytest.param(file(status=404), {}, "its server answers 404", id="not there"),
    pytest.param(file(b""), {}, "it is empty", id="empty"),
    pytest.param(None, {"timeout_s": 0.05}, "its server cannot be asked: TimeoutError", id="no answer"),
    pytest.param(file(), {"url": "http://[secret/1.mp3"}, "its address is none", id="no address"),
    pytest.param(file(), {"url": "http://secret℀.example/"}, "its address is none", id="no host"),
    pytest.param(
        file(), {"url": "http:///secret"}, "its server cannot be asked: InvalidUrlClientError", id="no host at all"
    ),
]


@pytest.mark.parametrize(("answer", "settings", "reason"), REFUSED)
def test_what_cannot_be_fetched_is_said_and_the_message_stays(
    answer: web.Response | None, settings: dict[str, Any], reason: str
) -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP, audio=host.audio(**settings))
        await made.until(lambda: any(one.startswith("no audio: ") for one in made.reasons()) and at_rest(made))
        (said,) = [one for one in made.reasons() if one.startswith("no audio")]
        assert said.startswith(f"no audio: {reason}")
        assert not any("secret" in one or "127.0.0.1" in one for one in made.reasons())
        assert made.texts() == [f"{call} hangup"]
        n_asked = host.n_asked
        await made.plan(Stage.HANGUP, call, draws="changed")
        await made.until(lambda: made.texts() == ["changed"] and at_rest(made))
        assert host.n_asked == n_asked, "it is known"

    played(test, answer)


def test_a_host_that_hangs_does_not_hold_up_those_of_another() -> None:
    async def test(made: Rig, host: Host) -> None:
        for number in range(12):
            await made.plan(Stage.HANGUP, audio=host.audio(url=f"{host.url}?{number}"))
        await made.until(lambda: host.n_asked == MAX_OF_HOST)
        host._answers = [file()]
        await made.plan(Stage.HANGUP, audio=host.audio(url=host.url.replace("127.0.0.1", "localhost")))
        await made.until(lambda: replies(made))
        assert host.n_asked == MAX_OF_HOST + 1
        host.hung.set()

    played(test, None)


def test_a_recording_that_is_not_there_yet_is_asked_for_again() -> None:
    async def test(made: Rig, host: Host) -> None:
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: replies(made) and at_rest(made))
        assert made.reasons() == ["audio later: its server answers 404"]
        assert host.n_asked == 3

    played(test, file(status=404), file(status=503), file())


def test_another_recording_is_tried_where_the_first_could_not_be_sent() -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: made.reasons() and at_rest(made))
        await made.plan(Stage.HANGUP, call, audio=msgspec.structs.replace(host.audio(), url=f"{host.url}?2"))
        await made.until(lambda: replies(made) and at_rest(made))
        await made.plan(Stage.HANGUP, call, audio=msgspec.structs.replace(host.audio(), url=f"{host.url}?3"))
        await made.until(lambda: at_rest(made))
        assert len(replies(made)) == 1

    played(test, file(media_type="text/html"), file())


def test_texts_wait_neither_for_the_fetch_nor_for_the_upload() -> None:
    async def test(made: Rig, host: Host) -> None:
        first = await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: host.n_asked)
        second = await made.plan(Stage.HANGUP)
        await made.until(lambda: f"{second} hangup" in made.texts())
        assert not replies(made)
        made.fail("hold", "sendAudio", seconds=3.0)
        host._answers = [file()]
        host.hung.set()
        await made.until(made.sender.ports.replies.under_way)
        third = await made.plan(Stage.HANGUP)
        await made.plan(Stage.HANGUP, first, draws="changed")
        await made.until(lambda: {f"{third} hangup", "changed"} <= set(made.texts()))
        assert not replies(made)
        await made.until(lambda: replies(made) and at_rest(made))

    played(test, None)


def test_flood_waits_and_then_replies_once() -> None:
    async def test(made: Rig, host: Host) -> None:
        await made.plan(Stage.HANGUP)
        await made.until(made.texts)
        state = made.simulator.state
        state.change_settings(
            flood=msgspec.structs.replace(state.settings.flood, enabled=True, private_burst=1, held_s=0.0)
        )
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: replies(made) and at_rest(made))
        assert [one.outcome for one in told(made)] == ["flood", "ok"]

    played(test)


@pytest.mark.parametrize("fault", ["execute_then_drop", "drop_before", "502", "truncated", "500_after", "message_id_0"])
def test_a_reply_that_may_be_there_is_not_sent_again(fault: str) -> None:
    async def test(made: Rig, host: Host) -> None:
        made.fail(fault, "sendAudio")
        call = await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: told(made) and at_rest(made))
        await made.plan(Stage.HANGUP, call, draws="changed")
        await made.until(lambda: "changed" in made.texts() and at_rest(made))
        assert len(replies(made)) == (fault not in {"drop_before", "502"})
        (action,) = told(made)
        assert action.outcome == ("ok" if fault == "message_id_0" else "ambiguous")

    played(test)


def test_a_reply_that_never_left_is_sent_again() -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP)
        await made.shows(f"{call} hangup")
        base, made.session.api = made.session.api, type(made.session.api).from_base("http://127.0.0.1:1")
        made.audio[call] = host.audio()
        await made.plan(Stage.HANGUP, call)
        await made.until(lambda: "not_sent" in [one.outcome for one in told(made)])
        made.session.api = base
        await made.until(lambda: len(replies(made)) == 1 and at_rest(made))

    played(test)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ("VOICE_MESSAGES_FORBIDDEN", "file"),
        ("not enough rights to send voice notes to the chat", "file"),
        ("not enough rights to send it", "chat_dead"),
        ("in words of tomorrow", "unknown"),
    ],
)
def test_telegrams_refusal_of_a_file_is_said_and_final_and_does_not_suspend_the_chat(refusal: str, reason: str) -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP)
        await made.shows(f"{call} hangup")
        made.dialog().state, made.dialog().refusal = "refusing", refusal  # type: ignore[assignment]
        await made.plan(Stage.HANGUP, call, audio=host.audio())
        await made.until(lambda: f"no audio: Telegram refuses it: {reason}" in made.reasons() and at_rest(made))
        assert made.texts() == [f"{call} hangup"]
        assert await made.store.limits() == []

    played(test, file(OGG, "audio/ogg"))


def test_a_blocked_bot_suspends_the_chat_and_replies_when_it_is_resumed() -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP)
        await made.shows(f"{call} hangup")
        made.dialog().state = "blocked"  # type: ignore[assignment]
        await made.plan(Stage.HANGUP, call, audio=host.audio())
        (limit,) = await made.until_limits()
        made.dialog().state = "ready"  # type: ignore[assignment]
        await made.store.lift_limit(limit.bot_id, limit.chat_id)
        made.sender.wake()
        await made.until(lambda: len(replies(made)) == 1 and at_rest(made))

    played(test)


def test_a_restart_between_message_and_reply_loses_and_doubles_nothing() -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(lambda: host.n_asked and made.texts() == [f"{call} hangup"])
        await made.end()
        assert not replies(made)
        host._answers = [file()]
        made.begin()
        made.sender.wake()
        await made.until(lambda: replies(made) and at_rest(made))
        await made.end()
        made.begin()
        await made.plan(Stage.HANGUP, call, draws="changed")
        await made.until(lambda: "changed" in made.texts() and at_rest(made))
        assert len(replies(made)) == 1

    played(test, None)


def test_a_process_that_ends_waits_for_the_reply_and_writes_it_down() -> None:
    async def test(made: Rig, host: Host) -> None:
        made.fail("hold", "sendAudio", seconds=0.5)
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(made.sender.ports.replies.under_way)
        await made.end()
        (sent,) = replies(made)
        assert [one.message_id for one in told(made)] == [sent.message_id]
        made.begin()
        made.sender.wake()
        await made.until(lambda: at_rest(made))
        assert len(replies(made)) == 1

    played(test)


def test_a_promise_of_a_process_that_died_is_in_doubt_and_is_not_kept_again() -> None:
    async def test(made: Rig, host: Host) -> None:
        call = await made.plan(Stage.HANGUP)
        await made.shows(f"{call} hangup")
        (stored,) = made.store._db.cards.values()
        stored.change(shown=with_audio(stored.card, host.audio(), datetime.now(UTC)).shown)
        await made.plan(Stage.HANGUP, call, audio=host.audio())
        await made.until(lambda: told(made) and at_rest(made))
        (action,) = told(made)
        assert (action.outcome, "not sent again" in action.reason) == ("ambiguous", True)
        await made.plan(Stage.HANGUP, call, draws="changed")
        await made.until(lambda: "changed" in made.texts() and at_rest(made))
        assert len(told(made)) == 1
        assert (replies(made), host.n_asked) == ([], 0)

    played(test)


def test_replies_count_in_the_budget_and_texts_go_first() -> None:
    async def test(made: Rig, host: Host) -> None:
        n_taken = 0
        take = made.limits.take

        def counted(*arguments: Any) -> None:
            nonlocal n_taken
            n_taken += 1
            take(*arguments)

        made.limits.take = counted  # type: ignore[method-assign, assignment]
        first = await made.plan(Stage.HANGUP, audio=host.audio())
        second = await made.plan(Stage.HANGUP, audio=msgspec.structs.replace(host.audio(), url=f"{host.url}?2"))
        await made.until(lambda: len(replies(made)) == 2 and at_rest(made))
        order = [one.text or "audio" for one in made.simulator.state.truth]
        assert order == [f"{first} hangup", f"{second} hangup", "audio", "audio"]
        assert n_taken == 4

    played(test, limits=msgspec.structs.replace(ROOMY, private_per_s=4, private_burst=1))


def test_nothing_is_looked_for_in_a_chat_while_audio_is_on_its_way_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callgram.delivery.SETTLE_S", 0.1)
    probe, meanwhile = api.edit_reply_markup, []

    async def test(made: Rig, host: Host) -> None:
        async def watched(*arguments: Any) -> Any:
            meanwhile.append(made.sender.ports.replies.under_way(700, CHAT))
            return await probe(*arguments)

        monkeypatch.setattr(api, "edit_reply_markup", watched)
        made.fail("hold", "sendAudio", seconds=1.0)
        await made.plan(Stage.HANGUP, audio=host.audio())
        await made.until(made.sender.ports.replies.under_way)
        made.fail("execute_then_drop", "sendMessage")
        lost = await made.plan(Stage.HANGUP)
        await made.until(lambda: replies(made) and at_rest(made))
        assert meanwhile
        assert not any(meanwhile)
        assert made.texts().count(f"{lost} hangup") == 1
        assert replies(made)[0].message_id in made.dialog().records

    played(test)


# The protocol, step by step

AUDIO, OTHER = Audio(url="https://pbx.example.com/1.mp3"), Audio(url="https://pbx.example.com/2.mp3")
TEXT = Message("text", audio=AUDIO)
AT = datetime(2026, 3, 1, tzinfo=UTC)


def text(message_id: int, stage: Stage = Stage.HANGUP, digest: str = TEXT.digest) -> Shown:
    return Shown(message_id=message_id, stage=stage, digest=digest, sent_at=AT)


def audio(message_id: int, digest: str = AUDIO.key) -> Shown:
    return Shown(message_id=message_id, stage=Stage.HANGUP, digest=digest, sent_at=AT, audio=True)


REST, DONE = Nothing("up to date"), (audio(9), text(7))
STEPS = [
    pytest.param((text(7),), Reply(AUDIO), id="the text is there"),
    pytest.param((), Send(TEXT), id="nothing is"),
    pytest.param((text(7, digest="old"),), Edit(7, TEXT), id="the text is old"),
    pytest.param((text(5, Stage.DIAL), text(7)), Delete((5,)), id="an outdated text is there"),
    pytest.param((text(0), text(7)), Search(text(0)), id="a text is lost"),
    pytest.param(DONE, REST, id="sent"),
    pytest.param((audio(0), text(7)), Follow(audio(0), 7, AUDIO), id="promised"),
    pytest.param((audio(0, OTHER.key), text(7)), Follow(audio(0, OTHER.key), 7, AUDIO), id="another is promised"),
    pytest.param((audio(9), audio(0), text(7)), REST, id="sent, as was heard late"),
    pytest.param((audio(0, ""), text(7)), REST, id="in doubt"),
    pytest.param((audio(9, OTHER.key), text(7)), REST, id="another was sent"),
    pytest.param((audio(NO_AUDIO), text(7)), REST, id="it cannot be sent"),
    pytest.param((audio(NO_AUDIO, OTHER.key), text(7)), Reply(AUDIO), id="another cannot be sent"),
    pytest.param((audio(9), audio(8), text(7)), REST, id="two calls were one"),
    pytest.param((audio(9),), Send(TEXT), id="the text is gone"),
    pytest.param((audio(0),), Send(TEXT), id="the text of a promise is gone"),
]


def card_with(shown: tuple[Shown, ...], **more: Any) -> Card:
    return Card(enterprise="1", call_id=1, chat_id=41, bot_id=700, shown=shown, **({"stage": Stage.HANGUP} | more))


@pytest.mark.parametrize("mode", ["replace", "edit"])
@pytest.mark.parametrize(("shown", "step"), STEPS)
def test_what_is_next_when_audio_is_wanted(shown: tuple[Shown, ...], step: Step, mode: Mode) -> None:
    assert next_step(card_with(shown, mode=mode, replaces=frozenset({Stage.DIAL})), TEXT) == step


@pytest.mark.parametrize("stage", [Stage.START, Stage.DIAL, Stage.BRIDGE])
def test_a_call_that_goes_on_after_all_has_no_audio_and_keeps_what_was_sent(stage: Stage) -> None:
    assert next_step(card_with((text(7, stage),), stage=stage), TEXT) == REST
    assert next_step(card_with((audio(9), text(7), text(8, stage)), stage=stage), TEXT) == Delete((7,))
    assert next_step(card_with((audio(9), text(7)), stage=stage, mode="edit"), TEXT) == Edit(7, TEXT)
    assert next_step(card_with((audio(9), text(8, stage)), stage=stage), TEXT) == REST


SHOWN = st.lists(
    st.builds(
        Shown,
        message_id=st.integers(NO_AUDIO, 4),
        stage=st.sampled_from(Stage),
        digest=st.sampled_from(("", AUDIO.key, TEXT.digest)),
        sent_at=st.just(AT),
        audio=st.booleans(),
    ).filter(lambda one: one.audio or one.message_id >= 0),
    max_size=5,
).map(tuple)


@given(shown=SHOWN, stage=st.sampled_from(Stage), mode=st.sampled_from(("replace", "edit")), wanted=st.booleans())
def test_audio_is_never_edited_deleted_or_looked_for_and_no_text_waits_for_it(
    shown: tuple[Shown, ...], stage: Stage, mode: Mode, wanted: bool
) -> None:
    card = card_with(shown, stage=stage, mode=mode, replaces=frozenset(one for one in Stage if one.rank < stage.rank))
    step = next_step(card, TEXT if wanted else Message("text"))
    bare = next_step(msgspec.structs.replace(card, shown=card.texts), Message("text"))
    if isinstance(bare, Nothing):
        assert isinstance(step, Reply | Follow | Nothing)
    elif isinstance(bare, Send | Edit):
        assert msgspec.structs.replace(step, message=Message("text")) == bare
    else:
        assert step == bare
    assert not isinstance(step, Reply) or wanted


def test_what_is_seen_of_a_message_is_the_same_with_audio_and_an_audio_says_not_where_it_is() -> None:
    assert TEXT.digest == Message("text").digest
    assert "pbx" not in repr(TEXT)
