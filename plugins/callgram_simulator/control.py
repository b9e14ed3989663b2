"""The control API under ``/sim/``: what happened, what is in the chats, and what shall happen. Shows no token, ever."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from callgram_simulator.chats import Bot, ChatKind, ChatState, Dialog, Record
from callgram_simulator.errors import ApiError
from callgram_simulator.faults import Fault
from callgram_simulator.settings import AnswerSettings, FloodSettings
from callgram_simulator.state import State
from callgram_simulator.wire import User


class _Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class MoveClock(_Order, frozen=True, kw_only=True):
    seconds: float


class DescribeUser(_Order, frozen=True, kw_only=True):
    user_id: int
    first_name: str
    username: str | None = None


class DescribeBot(_Order, frozen=True, kw_only=True):
    """Name a bot by its token, which is then the only one that opens it, or by its id."""

    token: str | None = None
    bot_id: int | None = None
    first_name: str | None = None
    username: str | None = None
    state: Literal["running", "closing", "logged out"] | None = None


class DescribeChat(_Order, frozen=True, kw_only=True):
    """Make a chat for a bot, or change it. Fields left out stay as they are."""

    bot_id: int
    chat_id: int
    kind: ChatKind | None = None
    title: str | None = None
    state: ChatState | None = None
    refusal: str | None = None
    migrate_to: int | UnsetType | None = UNSET
    can_delete: bool | None = None
    is_forum: bool | None = None
    has_topics: bool | None = None
    topics: set[int] | None = None


class WriteMessage(_Order, frozen=True, kw_only=True):
    """A person writes; with another ``kind`` or ``author_bot_id``, a message that no person wrote appears."""

    bot_id: int
    chat_id: int
    text: str
    user_id: int | None = None
    author_bot_id: int | None = None
    kind: Literal["text", "media", "service"] = "text"


class PressButton(_Order, frozen=True, kw_only=True):
    bot_id: int
    chat_id: int
    message_id: int
    data: str
    user_id: int | None = None


class ChangeSettings(_Order, frozen=True, kw_only=True):
    any_token: bool | None = None
    auto_chats: bool | None = None
    answers: AnswerSettings | None = None


class Reset(_Order, frozen=True, kw_only=True):
    """Forget bots, chats, truth, faults and the moved clock; keep the settings."""


def take_order(state: State, path: str, body: bytes) -> Any:
    """Do what a POST to ``path`` asks and answer what to show. Raise ``ApiError``."""
    known = _ORDERS.get(path)
    if known is None:
        raise ApiError(404, "Not Found")
    shape, order = known
    try:
        return order(state, msgspec.json.decode(body or b"{}", type=shape))
    except msgspec.MsgspecError as error:
        raise ApiError(400, f"Bad Request: {path}: {error}") from error


def show(state: State, path: str, query: dict[str, str]) -> Any:
    """Answer what a GET of ``path`` shows. Raise ``ApiError``."""
    match path.strip("/").split("/"):
        case ["sim", "truth"]:
            since = query.get("since", "0")
            return {"last": state.truth.last_seq, "entries": state.truth.since(int(since) if since.isdigit() else 0)}
        case ["sim", "chats"]:
            return [_summary(d) for bot in list(state.bots.values()) for d in bot.dialogs.values()]
        case ["sim", "chats", bot_id, chat_id]:
            dialog = _known_dialog(state, _number(bot_id), _number(chat_id))
            messages = [record.message for record in dialog.records.values()]
            last = _number(query["last"]) if "last" in query else len(messages)
            return {**_summary(dialog), "messages": messages[max(len(messages) - last, 0) :]}
        case ["sim", "clock"]:
            return {"now": state.clock.now()}
        case ["sim", "faults"]:
            return state.faults.queue
    raise ApiError(404, "Not Found")


def _number(source: str) -> int:
    try:
        return int(source)
    except ValueError as error:
        raise ApiError(404, "Not Found: a number is expected") from error


def _summary(dialog: Dialog) -> dict[str, Any]:
    records = dialog.records
    last = records[next(reversed(records))].message if records else None
    return {
        "bot_id": dialog.bot.id,
        "bot_name": dialog.bot.user.first_name,
        "chat_id": dialog.chat.id,
        "kind": dialog.chat.kind,
        "title": dialog.chat.title,
        "state": dialog.state,
        "n_messages": len(records),
        "last_at": (last.edit_date or last.date) if last else 0,
    }


def _known_dialog(state: State, bot_id: int, chat_id: int) -> Dialog:
    bot = state.bots.get(bot_id)
    dialog = bot.dialogs.get(chat_id) if bot else None
    if dialog is None:
        raise ApiError(404, "Not Found: no such chat of such a bot")
    return dialog


def _move_clock(state: State, order: MoveClock) -> Any:
    state.clock.move(order.seconds)
    return {"now": state.clock.now()}


def _add_fault(state: State, fault: Fault) -> Any:
    state.faults.add(fault)
    return {"queued": len(state.faults.queue)}


def _describe_user(state: State, order: DescribeUser) -> Any:
    user = User(id=order.user_id, is_bot=False, first_name=order.first_name, username=order.username)
    state.users[user.id] = user
    chat = state.chats.get(user.id)
    if chat is not None:
        chat.title = user.first_name
        state.described(chat)
    return user


def _describe_bot(state: State, order: DescribeBot) -> Any:
    number = (order.token or "").partition(":")[0]
    bot_id = order.bot_id or (int(number) if number.isdigit() else 0)
    if bot_id <= 0:
        raise ApiError(400, "Bad Request: /sim/bots: name the bot by token or bot_id")
    bot = state.bot(bot_id)
    bot.token = order.token or bot.token
    bot.state = order.state or bot.state
    names = {"first_name": order.first_name, "username": order.username}
    bot.user = msgspec.structs.replace(bot.user, **{name: value for name, value in names.items() if value})
    for chat_id in bot.dialogs:
        state.feed.publish({"type": "chat", "bot_id": bot.id, "chat_id": chat_id})
    return _bot_summary(bot)


def _bot_summary(bot: Bot) -> Any:
    return {"bot_id": bot.id, "first_name": bot.user.first_name, "username": bot.user.username, "state": bot.state}


def _describe_chat(state: State, order: DescribeChat) -> Any:
    dialog = state.dialog(state.bot(order.bot_id), order.chat_id, order.kind, order.title)
    chat = dialog.chat
    chat.title = order.title or chat.title
    chat.is_forum = chat.is_forum if order.is_forum is None else order.is_forum
    chat.topics = chat.topics if order.topics is None else order.topics
    dialog.state = order.state or dialog.state
    dialog.refusal = order.refusal or dialog.refusal
    dialog.can_delete = dialog.can_delete if order.can_delete is None else order.can_delete
    dialog.has_topics = dialog.has_topics if order.has_topics is None else order.has_topics
    if order.migrate_to is not UNSET:
        dialog.migrate_to = order.migrate_to
    state.described(chat)
    return _summary(dialog)


def _write_message(state: State, order: WriteMessage) -> Any:
    dialog = state.dialog(state.bot(order.bot_id), order.chat_id)
    if order.kind == "text" and order.author_bot_id is None:
        return state.write_as_user(dialog, order.text, order.user_id)
    author = state.bot(order.author_bot_id).user if order.author_bot_id else state.user(order.user_id or order.chat_id)
    content: dict[str, Any] = {"text": order.text}
    if order.kind == "media":
        content = {"caption": order.text, "photo": ({"file_id": "photo", "width": 640, "height": 480},)}
    message = state.new_message(dialog, author, **content)
    state.send(dialog, Record(message=message, bot_id=order.author_bot_id, kind=order.kind))
    return message


def _press_button(state: State, order: PressButton) -> Any:
    dialog = _known_dialog(state, order.bot_id, order.chat_id)
    query_id = state.press(dialog, order.message_id, order.data, order.user_id)
    if query_id is None:
        raise ApiError(404, "Not Found: no such button")
    return {"callback_query_id": query_id}


def _change_settings(state: State, order: ChangeSettings) -> Any:
    given = {name: value for name, value in msgspec.structs.asdict(order).items() if value is not None}
    state.change_settings(**given)
    return state.settings


def _change_flood(state: State, flood: FloodSettings) -> Any:
    state.change_settings(flood=flood)
    return flood


def _reset(state: State, _: Reset) -> Any:
    for bot in state.bots.values():
        bot.inbox.webhook = None
        bot.inbox.release_poll()
    state.reset()
    return {}


_ORDERS: dict[str, tuple[Any, Any]] = {
    "/sim/bots": (DescribeBot, _describe_bot),
    "/sim/chats": (DescribeChat, _describe_chat),
    "/sim/clock": (MoveClock, _move_clock),
    "/sim/faults": (Fault, _add_fault),
    "/sim/flood": (FloodSettings, _change_flood),
    "/sim/messages": (WriteMessage, _write_message),
    "/sim/press": (PressButton, _press_button),
    "/sim/reset": (Reset, _reset),
    "/sim/settings": (ChangeSettings, _change_settings),
    "/sim/users": (DescribeUser, _describe_user),
}
