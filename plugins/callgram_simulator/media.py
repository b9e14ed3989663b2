"""sendVoice, sendAudio and sendDocument: a file that is uploaded, named by an earlier file_id, or by a URL (rules R97-R104).

A URL is believed: nothing is fetched, so that no simulator reaches into the network.
"""

from typing import NamedTuple

import msgspec

from callgram_simulator.access import Call, open_dialog, requested_topic
from callgram_simulator.chats import Record
from callgram_simulator.errors import ApiError, bad_request
from callgram_simulator.keyboards import requested_markup
from callgram_simulator.params import Upload
from callgram_simulator.sending import Step, replied_message
from callgram_simulator.text import normalized, requested_text
from callgram_simulator.wire import Entity, Media, Message

UPLOAD_LIMIT = 50 * 1024 * 1024
MAX_CAPTION = 1024
_NOT_A_FILE = "wrong file identifier/HTTP URL specified"


class StoredFile(NamedTuple):
    """A file that a bot has sent. ``body`` is empty where only its URL is known."""

    bot_id: int
    kind: str
    media: Media
    body: bytes


def send_voice(call: Call) -> Step:
    return _send(call, "voice")


def send_audio(call: Call) -> Step:
    return _send(call, "audio")


def send_document(call: Call) -> Step:
    return _send(call, "document")


def _send(call: Call, kind: str) -> Step:
    file = _requested_file(call, kind)
    caption, entities = _requested_caption(call)
    markup = requested_markup(call.params)
    dialog = open_dialog(call, "send")
    topic = requested_topic(call, dialog)
    replied = replied_message(call, dialog)

    def commit() -> Message:
        media = call.state.keep_file(file)
        message = call.state.new_message(
            dialog,
            call.bot.user,
            caption=caption or None,
            caption_entities=entities,
            message_thread_id=topic,
            is_topic_message=topic is not None,
            reply_to_message=replied,
            reply_markup=markup.inline,
            **{kind: media},
        )
        record = Record(message=message, bot_id=call.bot.id, kind="media", has_reply_keyboard=markup.is_reply_keyboard)
        call.state.send(dialog, record)
        return message

    return Step(commit, dialog)


def _requested_caption(call: Call) -> tuple[str, tuple[Entity, ...]]:
    if not call.params.text("caption"):
        return "", ()
    caption, entities = normalized(*requested_text(call.params, "caption"))
    if len(caption) > MAX_CAPTION:
        raise bad_request("message caption is too long")
    return caption, entities


def _requested_file(call: Call, kind: str) -> StoredFile:
    """Raise ``ApiError`` where there is no such file. Telegram reads more of a file than this: its duration, its tags."""
    params = call.params
    source = params.text(kind)
    upload = params.file(source.removeprefix("attach://") if source.startswith("attach://") else kind)
    if upload is not None:
        return _uploaded(call, kind, upload)
    if not source:
        raise bad_request(f"there is no {kind} in the request")
    if source.startswith(("http://", "https://")):
        return StoredFile(call.bot.id, kind, _described(call, kind, Media(file_id="", file_unique_id="")), b"")
    known = call.state.files.get(source)
    if known is None or known.bot_id != call.bot.id:
        raise bad_request(_NOT_A_FILE)
    if known.kind != kind:
        raise bad_request(f"can't use file of type {known.kind.capitalize()} as {kind.capitalize()}")
    return known


def _uploaded(call: Call, kind: str, upload: Upload) -> StoredFile:
    if len(upload.body) > UPLOAD_LIMIT:
        raise ApiError(413, "Request Entity Too Large")
    if not upload.body:
        raise bad_request("file must be non-empty")
    name = None if kind == "voice" else upload.name
    media = Media(
        file_id="", file_unique_id="", file_name=name, mime_type=upload.media_type, file_size=len(upload.body)
    )
    return StoredFile(call.bot.id, kind, _described(call, kind, media), upload.body)


def _described(call: Call, kind: str, media: Media) -> Media:
    if kind == "document":
        return media
    told = {"duration": call.params.integer("duration")}
    if kind == "audio":
        told |= {name: call.params.text(name) or None for name in ("title", "performer")}  # type: ignore[misc]
    return msgspec.structs.replace(media, **told)
