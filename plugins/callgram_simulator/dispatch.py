"""One request of a bot from token to answer: let in, checked, delayed or broken as asked, executed."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Struct

from callgram_simulator import account, deleting, editing, inside_chats, media, sending
from callgram_simulator.access import Call
from callgram_simulator.chats import Bot
from callgram_simulator.errors import ApiError, bad_request, too_many_requests
from callgram_simulator.faults import Fault
from callgram_simulator.params import Params
from callgram_simulator.state import State
from callgram_simulator.wire import Message

JSON = "application/json"

METHODS: dict[str, Callable[[Call], sending.Step]] = {
    "answercallbackquery": account.answer_callback_query,
    "copymessage": sending.copy_message,
    "copymessages": sending.copy_messages,
    "deletemessage": deleting.delete_message,
    "deletemessages": deleting.delete_messages,
    "deletewebhook": account.delete_webhook,
    "editmessagereplymarkup": editing.edit_message_reply_markup,
    "editmessagetext": editing.edit_message_text,
    "forwardmessage": sending.forward_message,
    "forwardmessages": sending.forward_messages,
    "getchat": inside_chats.get_chat,
    "getme": account.get_me,
    "getwebhookinfo": account.get_webhook_info,
    "logout": account.log_out,
    "pinchatmessage": inside_chats.pin_chat_message,
    "sendaudio": media.send_audio,
    "sendchataction": inside_chats.send_chat_action,
    "senddocument": media.send_document,
    "sendmessage": sending.send_message,
    "sendvoice": media.send_voice,
    "setmessagereaction": inside_chats.set_message_reaction,
    "setmycommands": account.accept,
    "setwebhook": account.set_webhook,
}


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    body: bytes
    content_type: str = JSON
    retry_after_s: int | None = None
    ending: Literal["whole", "truncated", "dropped"] = "whole"


_DROPPED = Answer(status=0, body=b"", ending="dropped")
_BAD_GATEWAY = Answer(
    status=502,
    content_type="text/html",
    body=b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.18.0</center>\r\n</body>\r\n</html>\r\n",
)


def refusal(error: ApiError) -> Answer:
    body: dict[str, Any] = {"ok": False, "error_code": error.code, "description": error.description}
    retry_after_s = None
    if error.parameters:
        body["parameters"] = error.parameters
        retry_after_s = error.parameters.get("retry_after")
    return Answer(status=error.code, body=msgspec.json.encode(body), retry_after_s=retry_after_s)


async def answer(state: State, token: str, method: str, params: Params) -> Answer:
    """Answer one request; ``method`` in lower case."""
    try:
        bot = state.bot_with(token)
        if state.faults.queue:
            fault = state.faults.take(method, bot.id, params.integer("chat_id"))
            if fault is not None:
                return await _broken(state, bot, method, params, fault)
        return _success(await execute(state, bot, method, params))
    except ApiError as error:
        return refusal(error)


async def execute(state: State, bot: Bot, method: str, params: Params, hold_s: float = 0.0) -> Any:
    """Carry a request out and answer its result; raise ``ApiError`` where the bot is refused."""
    if bot.state != "running":
        raise bad_request("logged out") if bot.state == "logged out" else _restarting()
    call = Call(state, bot, params)
    is_limited = state.settings.flood.enabled
    bot.n_active += 1
    try:
        if is_limited:
            await state.flood.admit_request(bot)
        if method == "getupdates":
            return await account.get_updates(call)
        prepare = METHODS.get(method)
        if prepare is None:
            raise ApiError(404, "Not Found: method not found")
        step = prepare(call)
        if hold_s:
            await asyncio.sleep(hold_s)
        if is_limited and step.dialog is not None:
            await state.flood.admit(step.dialog)
        return step.commit()
    finally:
        bot.n_active -= 1


async def _broken(state: State, bot: Bot, method: str, params: Params, fault: Fault) -> Answer:
    """Answer a request the way the fault says. A request that is refused anyway still shows the fault's answer."""
    match fault.action:
        case "hold":
            return _success(await execute(state, bot, method, params, fault.seconds))
        case "drop_before":
            return _DROPPED
        case "truncated":
            whole = _success(await execute(state, bot, method, params))
            return msgspec.structs.replace(whole, ending="truncated")
        case "message_id_0":
            result = await execute(state, bot, method, params)
            return _success(msgspec.structs.replace(result, message_id=0) if isinstance(result, Message) else result)
        case "deleted_at_once":
            result = await execute(state, bot, method, params)
            if isinstance(result, Message):
                state.delete(bot.dialogs[result.chat.id], result.message_id, by_bot=False)
            reason = "sent message was immediately deleted and can't be returned"
            raise ApiError(500, f"Internal Server Error: {reason}")
    if fault.executed or fault.action in ("execute_then_drop", "500_after"):
        with suppress(ApiError):
            await execute(state, bot, method, params)
    match fault.action:
        case "502":
            return _BAD_GATEWAY
        case "429_5":
            raise too_many_requests(5)
        case "500_after":
            raise ApiError(500, "Internal Server Error")
    return _DROPPED


def _success(result: Any) -> Answer:
    return Answer(status=200, body=b'{"ok":true,"result":' + msgspec.json.encode(result) + b"}")


def _restarting() -> ApiError:
    return ApiError(500, "Internal Server Error: restart")
