"""sendMessage, and the copies that count as sends. Each method checks first and answers what is still to be done."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from callgram_simulator.access import Call, find_dialog, open_dialog, requested_topic
from callgram_simulator.chats import Dialog, Record
from callgram_simulator.errors import bad_request
from callgram_simulator.keyboards import requested_markup
from callgram_simulator.text import MAX_TEXT, normalized, requested_text
from callgram_simulator.wire import Message, Origin

MAX_IDS = 100


class Step(NamedTuple):
    """A checked request. Between the checks and ``commit`` flood control and faults may let time pass."""

    commit: Callable[[], Any]
    dialog: Dialog | None = None
    """The chat whose flood budget pays for it, ``None`` for free."""


def send_message(call: Call) -> Step:
    text, entities = requested_text(call.params)
    markup = requested_markup(call.params)
    dialog = open_dialog(call, "send")
    topic = requested_topic(call, dialog)
    replied = replied_message(call, dialog)
    text, entities = normalized(text, entities)
    if len(text) > MAX_TEXT:
        raise bad_request("message is too long")

    def commit() -> Message:
        message = call.state.new_message(
            dialog,
            call.bot.user,
            text=text,
            entities=entities,
            message_thread_id=topic,
            is_topic_message=topic is not None,
            reply_to_message=replied,
            reply_markup=markup.inline,
        )
        record = Record(message=message, bot_id=call.bot.id, has_reply_keyboard=markup.is_reply_keyboard)
        call.state.send(dialog, record)
        return message

    return Step(commit, dialog)


def replied_message(call: Call, dialog: Dialog) -> Message | None:
    """Answer the message replied to, without its own reply (R44-R46)."""
    params = call.params
    source = params.text("reply_parameters")
    if source:
        try:
            given = msgspec.json.decode(source, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise bad_request("can't parse reply parameters JSON object") from error
        message_id = given.get("message_id")
        may_miss = given.get("allow_sending_without_reply") in (True, "true", "True", 1)
    else:
        message_id = params.integer("reply_to_message_id") or None
        may_miss = params.flag("allow_sending_without_reply")
    if message_id is None:
        return None
    record = dialog.records.get(message_id) if isinstance(message_id, int) else None
    if record is None:
        if may_miss:
            return None
        raise bad_request("message to be replied not found")
    return msgspec.structs.replace(record.message, reply_to_message=None)


def copy_message(call: Call) -> Step:
    source = _source(call, call.params.integer("message_id"), "copy")
    dialog = open_dialog(call, "send")
    return Step(lambda: {"message_id": _copy(call, dialog, source, is_forward=False).message_id}, dialog)


def forward_message(call: Call) -> Step:
    source = _source(call, call.params.integer("message_id"), "forward")
    dialog = open_dialog(call, "send")
    return Step(lambda: _copy(call, dialog, source, is_forward=True), dialog)


def copy_messages(call: Call) -> Step:
    return _several(call, is_forward=False)


def forward_messages(call: Call) -> Step:
    return _several(call, is_forward=True)


def _several(call: Call, is_forward: bool) -> Step:
    ids = call.params.integers("message_ids")
    if not ids:
        raise bad_request("message identifiers are not specified")
    if len(ids) > MAX_IDS:
        raise bad_request("too many message identifiers specified")
    if sorted(set(ids)) != ids:
        raise bad_request("message identifiers must be in a strictly increasing order")
    origin = find_dialog(call, "from_chat_id")
    dialog = open_dialog(call, "send")

    def commit() -> list[dict[str, int]]:
        found = [record for message_id in ids if (record := origin.records.get(message_id))]
        return [{"message_id": _copy(call, dialog, record, is_forward).message_id} for record in found]

    return Step(commit, dialog)


def _source(call: Call, message_id: int, verb: str) -> Record:
    record = find_dialog(call, "from_chat_id").records.get(message_id)
    if record is None:
        raise bad_request(f"message to {verb} not found")
    return record


def _copy(call: Call, dialog: Dialog, source: Record, is_forward: bool) -> Message:
    original = source.message
    fields: dict[str, Any] = {"text": original.text, "entities": original.entities, "photo": original.photo}
    media = ("voice", "audio", "document", "caption", "caption_entities")
    fields |= {name: getattr(original, name) for name in media}
    if is_forward:
        author = original.from_ or call.bot.user
        fields["forward_origin"] = Origin(type="user", date=original.date, sender_user=author)
    message = call.state.new_message(dialog, call.bot.user, **fields)
    call.state.send(dialog, Record(message=message, bot_id=call.bot.id, kind=source.kind))
    return message
