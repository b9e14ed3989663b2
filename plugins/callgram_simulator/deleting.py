"""deleteMessage and deleteMessages (rules R60-R72). Free of flood control."""

from callgram_simulator.access import Call, open_dialog
from callgram_simulator.chats import GROUP_CREATED_ID, Dialog, Record
from callgram_simulator.errors import bad_request
from callgram_simulator.sending import MAX_IDS, Step

MAX_AGE_S = 48 * 3600


def delete_message(call: Call) -> Step:
    message_id = call.params.integer("message_id")
    if not message_id:
        raise bad_request("message identifier is not specified")
    dialog = open_dialog(call, "delete")
    if dialog.chat.is_shared and message_id == GROUP_CREATED_ID:
        raise bad_request("message can't be deleted")
    record = dialog.records.get(message_id)
    if record is None:
        raise bad_request("message to delete not found")
    _check_deletable(call, dialog, record)

    def commit() -> bool:
        if message_id in dialog.records:
            call.state.delete(dialog, message_id)
        elif call.state.settings.answers.double_delete == "not found":
            raise bad_request("message to delete not found")
        return True

    return Step(commit)


def delete_messages(call: Call) -> Step:
    """Delete those of the ids that exist: all or, if one of them may not be, none."""
    ids = call.params.integers("message_ids")
    if not ids:
        raise bad_request("message identifiers are not specified")
    if len(ids) > MAX_IDS:
        raise bad_request("too many message identifiers specified")
    if min(ids) <= 0:
        raise bad_request("invalid message identifier specified")
    dialog = open_dialog(call, "delete")
    for message_id in ids:
        if message_id in dialog.records:
            _check_deletable(call, dialog, dialog.records[message_id])

    def commit() -> bool:
        for message_id in ids:
            if message_id in dialog.records:
                call.state.delete(dialog, message_id)
        return True

    return Step(commit)


def _check_deletable(call: Call, dialog: Dialog, record: Record) -> None:
    message = record.message
    is_old = call.state.clock.now() - message.date > MAX_AGE_S
    is_own = record.bot_id == call.bot.id
    if dialog.chat.is_shared:
        if is_old or not (is_own or dialog.can_delete):
            raise bad_request("message can't be deleted")
    elif is_old or not (is_own or dialog.chat.kind == "private" or dialog.can_delete):
        raise bad_request("message can't be deleted for everyone")
