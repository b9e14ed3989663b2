"""What goes over the wire for a card, and how a refused bulk deletion falls apart into single ones."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callgram.cards import Message
from callgram.context import Secret
from callgram.telegram import api
from callgram.telegram.outcome import Kind, Outcome, Reason

T = TypeVar("T")

TOKEN = Secret("1:a")
OK = Outcome(kind=Kind.OK, reason=Reason.OK)
TOO_OLD = Outcome(kind=Kind.REJECTED, reason=Reason.TOO_OLD)
DEAD = Outcome(kind=Kind.REJECTED, reason=Reason.CHAT_DEAD)
FLOOD = Outcome(kind=Kind.FLOOD, reason=Reason.FLOOD, retry_after_s=3)
KEYBOARD = (({"text": "Карточка", "url": "https://example.org"},),)


class Scripted:
    """A session that answers from a list and remembers what it was asked."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def call(self, token: Secret, method: str, payload: dict[str, Any], **how: Any) -> Outcome:
        assert token is TOKEN
        self.calls.append((method, msgspec.json.decode(msgspec.json.encode(payload))))
        return self.answers.pop(0)

    async def ask(
        self, token: Secret, method: str, payload: dict[str, Any], shape: type[T]
    ) -> tuple[Outcome, T | None]:
        outcome = await self.call(token, method, payload)
        return outcome, msgspec.convert({"id": 7, "username": "calls_bot"}, shape) if outcome.ok else None


def test_a_message_is_html_without_previews() -> None:
    session = Scripted(OK, OK)

    asyncio.run(api.send_message(session, TOKEN, 42, Message("<b>hi</b>")))
    asyncio.run(api.send_message(session, TOKEN, 42, Message("hi", KEYBOARD, silent=True)))

    bare = {"chat_id": 42, "parse_mode": "HTML", "link_preview_options": {"is_disabled": True}}
    keyboard = {"inline_keyboard": [[{"text": "Карточка", "url": "https://example.org"}]]}
    assert session.calls == [
        ("sendMessage", bare | {"text": "<b>hi</b>"}),
        ("sendMessage", bare | {"text": "hi", "reply_markup": keyboard, "disable_notification": True}),
    ]


def test_an_edit_names_its_message_and_never_asks_for_silence() -> None:
    session = Scripted(OK)

    asyncio.run(api.edit_message(session, TOKEN, 42, 5, Message("hi", silent=True)))

    [(method, payload)] = session.calls
    assert method == "editMessageText"
    assert payload["message_id"] == 5
    assert "disable_notification" not in payload


def test_plain_drops_all_that_can_be_refused() -> None:
    session = Scripted(OK, OK)
    message = Message("<b>a &lt; b</b>\ud800", KEYBOARD)

    asyncio.run(api.send_message(session, TOKEN, 42, message, plain=True))
    asyncio.run(api.edit_message(session, TOKEN, 42, 5, message, plain=True))

    for _, payload in session.calls:
        assert payload["text"] == "a < b\ufffd"
        assert not {"parse_mode", "reply_markup"} & payload.keys()


def test_the_probe_sends_the_keyboard_it_expects() -> None:
    session = Scripted(OK, OK)

    asyncio.run(api.edit_reply_markup(session, TOKEN, 42, 5))
    asyncio.run(api.edit_reply_markup(session, TOKEN, 42, 5, KEYBOARD))

    assert [payload.get("reply_markup") for _, payload in session.calls] == [
        None,
        {"inline_keyboard": [[{"text": "Карточка", "url": "https://example.org"}]]},
    ]


def test_get_me_answers_the_bot_or_none() -> None:
    assert asyncio.run(api.get_me(Scripted(OK), TOKEN)) == (OK, api.Me(id=7, username="calls_bot"))
    assert asyncio.run(api.get_me(Scripted(DEAD), TOKEN)) == (DEAD, None)


@pytest.mark.parametrize(
    ("ids", "answers", "expected", "methods"),
    [
        pytest.param([1], [OK], {1: OK}, ["deleteMessage"], id="one is deleted singly"),
        pytest.param([1, 2], [OK], {1: OK, 2: OK}, ["deleteMessages"], id="several go in one call"),
        pytest.param(
            [1, 2, 3],
            [TOO_OLD, OK, TOO_OLD, OK],
            {1: OK, 2: TOO_OLD, 3: OK},
            ["deleteMessages", *["deleteMessage"] * 3],
            id="one too old keeps the others, so each is tried",
        ),
        pytest.param(
            [1, 2, 3],
            [TOO_OLD, OK, FLOOD],
            {1: OK, 2: FLOOD, 3: FLOOD},
            ["deleteMessages", "deleteMessage", "deleteMessage"],
            id="a flood ends the single ones",
        ),
        pytest.param([1, 2], [DEAD], {1: DEAD, 2: DEAD}, ["deleteMessages"], id="a dead chat is not tried again"),
        pytest.param([1, 2], [FLOOD], {1: FLOOD, 2: FLOOD}, ["deleteMessages"], id="a flood is not tried again"),
    ],
)
def test_deleting(ids: list[int], answers: list[Outcome], expected: dict[int, Outcome], methods: list[str]) -> None:
    session = Scripted(*answers)

    assert asyncio.run(api.delete_messages(session, TOKEN, 42, ids)) == expected
    assert [method for method, _ in session.calls] == methods


@pytest.mark.parametrize("count", [0, 101])
def test_deleting_takes_1_to_100_ids(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        asyncio.run(api.delete_messages(Scripted(), TOKEN, 42, range(count)))


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        pytest.param('<b>Call</b> <a href="https://x.org/?a=1&amp;b">from</a> &lt;1&gt;', "Call from <1>", id="markup"),
        pytest.param("a < b and c > d", "a < b and c > d", id="signs that are no tags"),
        pytest.param("<b>unclosed <i", "unclosed <i", id="broken"),
        pytest.param("one<br/>two", "one\ntwo", id="a line break"),
        pytest.param("<!-- a\nb -->x", "x", id="a comment"),
        pytest.param("\ud83d\ude00 \udc00", "😀 \ufffd", id="surrogates"),
        pytest.param("&#55357;&#128512;", "\ufffd😀", id="surrogates by number"),
        pytest.param(" <b> </b> ", "", id="nothing"),
    ],
)
def test_plain_text_is_what_a_reader_would_see(markup: str, text: str) -> None:
    assert api.plain_text(markup) == text


@given(st.text(st.characters(categories=None), max_size=60), st.integers(0, 200))
def test_plain_text_always_fits_and_encodes(markup: str, times: int) -> None:
    text = api.plain_text(markup * times)

    assert len(text) <= 4096
    text.encode()
