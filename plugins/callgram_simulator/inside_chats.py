"""The smaller methods inside a chat: getChat, sendChatAction, reactions and pins (rules R76, R77)."""

import msgspec

from callgram_simulator.access import Call, find_dialog, open_dialog
from callgram_simulator.chats import Record
from callgram_simulator.errors import bad_request
from callgram_simulator.sending import Step


def get_chat(call: Call) -> Step:
    dialog = find_dialog(call)
    return Step(lambda: dialog.info)


def send_chat_action(call: Call) -> Step:
    open_dialog(call, "send")
    return Step(lambda: True)


def set_message_reaction(call: Call) -> Step:
    _existing(call, "react")
    return Step(lambda: True)


def pin_chat_message(call: Call) -> Step:
    """Pin: a service message tells of it and takes a number (R92)."""
    record = _existing(call, "pin")
    dialog = open_dialog(call, "edit")

    def commit() -> bool:
        pinned = msgspec.structs.replace(record.message, reply_to_message=None)
        message = call.state.new_message(dialog, call.bot.user, pinned_message=pinned)
        dialog.keep(Record(message=message, bot_id=call.bot.id, kind="service"), call.state.settings)
        return True

    return Step(commit)


def _existing(call: Call, verb: str) -> Record:
    record = open_dialog(call, "edit").records.get(call.params.integer("message_id"))
    if record is None:
        raise bad_request(f"message to {verb} not found")
    return record
