"""Reply markup of a request: inline keyboards are checked and kept, reply keyboards only remembered (R47-R49, R56)."""

from typing import Any, NamedTuple

import msgspec

from callgram_simulator.errors import bad_request
from callgram_simulator.links import checked_link
from callgram_simulator.params import Params
from callgram_simulator.wire import Button, Keyboard

MAX_CALLBACK_DATA_BYTES = 64
_ACTIONS = ("url", "callback_data", "copy_text", "web_app", "switch_inline_query", "switch_inline_query_current_chat")
_REPLY_MARKUPS = ("keyboard", "remove_keyboard", "force_reply")


class Markup(NamedTuple):
    inline: Keyboard | None = None
    is_reply_keyboard: bool = False


NO_MARKUP = Markup()


def requested_markup(params: Params) -> Markup:
    """Answer the request's reply markup; raise ``ApiError`` where Telegram would not take it."""
    source = params.text("reply_markup")
    if not source:
        return NO_MARKUP
    try:
        given = msgspec.json.decode(source)
    except msgspec.MsgspecError as error:
        raise bad_request("can't parse reply keyboard markup JSON object") from error
    if not isinstance(given, dict):
        raise bad_request("object expected as reply markup")
    rows = given.get("inline_keyboard")
    if rows is None:
        return Markup(is_reply_keyboard=any(given.get(name) for name in _REPLY_MARKUPS))
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad_request('field "inline_keyboard" must be of type Array of Array')
    keyboard = tuple(tuple(_button(button) for button in row) for row in rows if row)
    return Markup(inline=Keyboard(inline_keyboard=keyboard) if keyboard else None)


def _button(given: Any) -> Button:
    try:
        button = msgspec.convert(given, type=Button)
    except msgspec.ValidationError as error:
        raise bad_request(f"can't parse inline keyboard button: {error}") from error
    if not any(getattr(button, action) is not None for action in _ACTIONS):
        raise bad_request("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
    if button.callback_data is not None and len(button.callback_data.encode()) > MAX_CALLBACK_DATA_BYTES:
        raise bad_request("BUTTON_DATA_INVALID")
    if button.url is None:
        return button
    link = checked_link(button.url)
    if link is None:
        raise bad_request(f"inline keyboard button URL '{button.url}' is invalid: Wrong HTTP URL")
    return msgspec.structs.replace(button, url=link)
