"""editMessageText and editMessageReplyMarkup (rules R50-R59). An own message may be edited at any age."""

from typing import Any

from callgram_simulator.access import Call, open_dialog
from callgram_simulator.chats import Dialog, Record
from callgram_simulator.errors import bad_request
from callgram_simulator.keyboards import requested_markup
from callgram_simulator.sending import Step
from callgram_simulator.text import MAX_TEXT, normalized, requested_text
from callgram_simulator.wire import Message

_NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same "
    "as a current content and reply markup of the message"
)


def edit_message_text(call: Call) -> Step:
    text, entities = requested_text(call.params)
    markup = requested_markup(call.params)
    dialog, record = _editable(call)
    if record.kind == "media":
        raise bad_request("there is no text in the message to edit")
    text, entities = normalized(text, entities)
    if len(text) > MAX_TEXT:
        raise bad_request("MESSAGE_TOO_LONG")
    changes = {"text": text, "entities": entities, "reply_markup": markup.inline}
    return Step(lambda: _commit(call, dialog, record, changes), dialog)


def edit_message_reply_markup(call: Call) -> Step:
    markup = requested_markup(call.params)
    dialog, record = _editable(call)
    return Step(lambda: _commit(call, dialog, record, {"reply_markup": markup.inline}), dialog)


def _editable(call: Call) -> tuple[Dialog, Record]:
    message_id = call.params.integer("message_id")
    if not call.params.text("chat_id") and not message_id:
        raise bad_request("message identifier is not specified")
    dialog = open_dialog(call, "edit")
    record = dialog.records.get(message_id)
    if record is None:
        raise bad_request("message to edit not found")
    foreign = record.bot_id != call.bot.id or record.kind == "service" or record.message.forward_origin is not None
    if foreign or record.has_reply_keyboard:
        raise bad_request("message can't be edited")
    return dialog, record


def _commit(call: Call, dialog: Dialog, record: Record, changes: dict[str, Any]) -> Message:
    message = record.message
    if dialog.records.get(message.message_id) is not record:
        raise bad_request("MESSAGE_ID_INVALID")  # deleted after the checks saw it (R54)
    if all(getattr(message, name) == value for name, value in changes.items()):
        raise bad_request(_NOT_MODIFIED)
    return call.state.edit(dialog, record, **changes)
