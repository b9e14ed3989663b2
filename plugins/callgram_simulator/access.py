"""Whether a bot may do something in a chat (rules R26-R43): the chat is found, open, and has the topic."""

from typing import Literal, NamedTuple

from callgram_simulator.chats import Bot, ChatState, Dialog
from callgram_simulator.errors import ApiError, bad_request, forbidden
from callgram_simulator.params import Params, lenient_integer
from callgram_simulator.state import State

Access = Literal["read", "send", "edit", "delete"]
_GENERAL_TOPIC = 1


class Call(NamedTuple):
    """One request of a bot, already let in."""

    state: State
    bot: Bot
    params: Params


def find_dialog(call: Call, name: str = "chat_id") -> Dialog:
    """Answer the chat a request names; raise ``ApiError`` where it is unknown."""
    source = call.params.text(name)
    if not source:
        raise bad_request(f"{name} is empty")
    chat_id = lenient_integer(source)
    dialog = call.bot.dialogs.get(chat_id)
    if dialog is None:
        if not chat_id or not call.state.settings.auto_chats:
            raise bad_request("chat not found")
        dialog = call.state.dialog(call.bot, chat_id)
    return dialog


def open_dialog(call: Call, access: Access) -> Dialog:
    """Answer the chat a request names; raise ``ApiError`` where the bot may not act in it."""
    dialog = find_dialog(call)
    if dialog.state is not ChatState.READY:
        refusal = _refusal(dialog, access, call.state.settings.answers.blocked_refuses_edits)
        if refusal is not None:
            raise refusal
    return dialog


def _refusal(dialog: Dialog, access: Access, blocked_refuses_edits: bool) -> ApiError | None:
    kind = dialog.chat.kind
    if access == "read":
        return None
    match dialog.state:
        case ChatState.DEACTIVATED:
            return forbidden("user is deactivated")
        case ChatState.KICKED:
            return forbidden(f"bot was kicked from the {kind} chat")
        case ChatState.LEFT:
            return forbidden(f"bot is not a member of the {kind} chat")
        case ChatState.BLOCKED if access == "send" or blocked_refuses_edits:
            return forbidden("bot was blocked by the user")
        case ChatState.DELETED if access != "edit":
            return forbidden("the group chat was deleted")
        case ChatState.UPGRADED if access != "edit":
            parameters = {"migrate_to_chat_id": dialog.migrate_to} if dialog.migrate_to else None
            return bad_request("group chat was upgraded to a supergroup chat", parameters)
    return _send_refusal(dialog) if access == "send" else None


def _send_refusal(dialog: Dialog) -> ApiError | None:
    match dialog.state:
        case ChatState.NOT_STARTED:
            return forbidden("bot can't initiate conversation with a user")
        case ChatState.IS_BOT:
            return forbidden("the bot can't send messages to the bot")
        case ChatState.NO_TEXT_RIGHT:
            return bad_request("not enough rights to send text messages to the chat")
        case ChatState.NO_POST_RIGHT:
            return bad_request("need administrator rights in the channel chat")
        case ChatState.NO_WRITE_ACCESS:
            return bad_request("have no write access to the chat")
        case ChatState.REFUSING:
            return bad_request(dialog.refusal)
    return None


def requested_topic(call: Call, dialog: Dialog) -> int | None:
    """Answer the topic to send to, ``None`` for none. A chat without topics ignores the request's (R42)."""
    topic = call.params.integer("message_thread_id")
    if not topic:
        return None
    chat = dialog.chat
    if chat.kind == "private":
        known = dialog.has_topics and topic in chat.topics
    elif not chat.is_forum:
        return None
    else:
        known = topic != _GENERAL_TOPIC and topic in chat.topics
    if not known:
        raise bad_request("message thread not found")
    return topic
