"""The Bot API methods that a card needs, as functions: what goes over the wire, and nothing about when or whether."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from callgram.audio import File
from callgram.cards import Message
from callgram.context import Secret
from callgram.telegram.outcome import Kind, Outcome, Reason

T = TypeVar("T")

TEXT_LIMIT: Final = 4096
"""Code points of a message after entity parsing (Bot API, sendMessage; MessageContent.cpp counts utf8_length)."""
DELETE_LIMIT: Final = 100
"""Message ids of one deleteMessages (Bot API)."""

_HOPELESS: Final = frozenset({Reason.CHAT_DEAD, Reason.TOKEN})
_NO_PREVIEW: Final = {"is_disabled": True}
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"<!--.*?-->|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)


def always() -> bool:
    return True


class Session(Protocol):
    """What this module needs of callgram.telegram.session.TelegramSession, which imports aiogram and this does not."""

    async def call(
        self, token: Secret, method: str, payload: dict[str, Any], *, may_leave: Callable[[], bool] = always
    ) -> Outcome: ...

    async def ask(
        self, token: Secret, method: str, payload: dict[str, Any], shape: type[T]
    ) -> tuple[Outcome, T | None]: ...


class Uploading(Protocol):
    """What ``send_audio`` needs of it."""

    async def send_file(self, token: Secret, file: File, payload: dict[str, Any]) -> tuple[Outcome, str]: ...


class Me(msgspec.Struct, frozen=True):
    """A bot as it knows itself. ``username`` is what stands in its links, without @."""

    id: int
    username: str = ""
    first_name: str = ""


async def send_message(
    session: Session,
    token: Secret,
    chat_id: int,
    message: Message,
    *,
    plain: bool = False,
    may_leave: Callable[[], bool] = always,
) -> Outcome:
    """``plain`` is for the second try, when the content was refused: bare text, without markup and keyboard. Where it
    ``may_leave`` no more when it is about to be written, it is not sent."""
    payload = {"chat_id": chat_id, **_content(message, plain=plain)}
    if message.silent:
        payload["disable_notification"] = True
    return await session.call(token, "sendMessage", payload, may_leave=may_leave)


async def edit_message(
    session: Session,
    token: Secret,
    chat_id: int,
    message_id: int,
    message: Message,
    *,
    plain: bool = False,
    may_leave: Callable[[], bool] = always,
) -> Outcome:
    """A message without a keyboard takes away the one that is there (R52)."""
    payload = {"chat_id": chat_id, "message_id": message_id, **_content(message, plain=plain)}
    return await session.call(token, "editMessageText", payload, may_leave=may_leave)


async def edit_reply_markup(
    session: Session,
    token: Secret,
    chat_id: int,
    message_id: int,
    keyboard: Sequence[Sequence[dict[str, Any]]] = (),
) -> Outcome:
    """Set the keyboard, or take it away. Also the probe for a lost message: an ok outcome says it is ours."""
    payload: dict[str, Any] = {"chat_id": chat_id, "message_id": message_id}
    if keyboard:
        payload["reply_markup"] = {"inline_keyboard": keyboard}
    return await session.call(token, "editMessageReplyMarkup", payload)


async def send_audio(
    session: Uploading, token: Secret, chat_id: int, file: File, *, reply_to: int, title: str = ""
) -> tuple[Outcome, str]:
    """A silent reply; a message without one where ``reply_to`` is gone. Answers the file's id with the outcome."""
    payload: dict[str, Any] = {
        "chat_id": chat_id,
        "disable_notification": True,
        "reply_parameters": {"message_id": reply_to, "allow_sending_without_reply": True},
    }
    if title and file.form.field == "audio":
        payload["title"] = title.encode("utf-8", "replace").decode()
    return await session.send_file(token, file, payload)


async def delete_messages(
    session: Session, token: Secret, chat_id: int, message_ids: Sequence[int]
) -> dict[int, Outcome]:
    """``{message id: how its deletion ended}`` for 1 to 100 ids. Messages that are gone already count as deleted.

    ``deleteMessages`` is all or nothing: one message past its 48 h keeps the others (R70), which are then tried singly.
    """
    if not 1 <= len(message_ids) <= DELETE_LIMIT:
        raise ValueError(f"want 1 to {DELETE_LIMIT} message ids, not {len(message_ids)}")
    if len(message_ids) > 1:
        payload = {"chat_id": chat_id, "message_ids": list(message_ids)}
        together = await session.call(token, "deleteMessages", payload)
        if together.kind is not Kind.REJECTED or together.reason in _HOPELESS:
            return dict.fromkeys(message_ids, together)
    outcomes: dict[int, Outcome] = {}
    for at, message_id in enumerate(message_ids):
        outcome = await session.call(token, "deleteMessage", {"chat_id": chat_id, "message_id": message_id})
        if not outcome.ok and (outcome.kind is not Kind.REJECTED or outcome.reason in _HOPELESS):
            return outcomes | dict.fromkeys(message_ids[at:], outcome)
        outcomes[message_id] = outcome
    return outcomes


async def get_me(session: Session, token: Secret) -> tuple[Outcome, Me | None]:
    """Not for every bot at the start: a server takes 20 new tokens a minute from one address (ClientManager.cpp)."""
    return await session.ask(token, "getMe", {}, Me)


def plain_text(markup: str) -> str:
    """What a reader would see of Telegram HTML, even broken HTML: at most 4096 characters, all of them encodable.

    May come out empty, which Telegram refuses.
    """
    text = html.unescape(_TAG.sub("", _BREAK.sub("\n", markup)))
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").strip()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def _content(message: Message, *, plain: bool) -> dict[str, Any]:
    if plain:
        return {"text": plain_text(message.html), "link_preview_options": _NO_PREVIEW}
    content: dict[str, Any] = {"text": message.html, "parse_mode": "HTML", "link_preview_options": _NO_PREVIEW}
    if message.keyboard:
        content["reply_markup"] = {"inline_keyboard": message.keyboard}
    return content
