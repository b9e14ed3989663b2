"""Audio that follows a message: where it is, and in which form Telegram takes it. Values and one table, no I/O."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from typing import Final, Literal

import msgspec

MB: Final = 1024 * 1024
UPLOAD_LIMIT: Final = 50 * MB
"""Bytes of a file that a bot uploads (Bot API, sending files)."""

Field = Literal["voice", "audio", "document"]


class Audio(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Audio to fetch from ``url`` and to send once as a reply to a message. It is never part of what the message shows.

    ``url`` may hold a password, so an Audio does not show it. ``title`` is what a player shows. ``allow_private``: it may be
    fetched from a private network; ``max_mb``: a longer one is not sent, nor one above Telegram's 50; ``timeout_s``: how long
    fetching all of it may take.
    """

    url: str
    title: str = ""
    allow_private: bool = False
    max_mb: int = 50
    timeout_s: float = 20.0

    @cached_property
    def key(self) -> str:
        """Equal keys are the same audio."""
        return hashlib.blake2b(self.url.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    @property
    def limit(self) -> int:
        """Bytes that it may have."""
        return min(self.max_mb * MB, UPLOAD_LIMIT)

    def __repr__(self) -> str:
        return f"Audio({self.key})"


class Form(msgspec.Struct, frozen=True):
    """How a file is sent: in which field of which method, and under which name."""

    field: Field
    name: str
    media_type: str

    @property
    def method(self) -> str:
        return f"send{self.field.capitalize()}"


class File(msgspec.Struct, frozen=True):
    """Audio in hand: its bytes, or the ``file_id`` under which the bot has sent it before; one of the two."""

    form: Form
    size: int
    body: bytes = b""
    file_id: str = ""

    def __repr__(self) -> str:
        return f"File({self.form.field}, {self.size})"

    @property
    def told(self) -> str:
        """What the trace says of it."""
        size = f"{self.size / MB:.1f} MB" if self.size >= MB else f"{max(1, self.size // 1024)} KB"
        return f"🔉 {self.form.field}, {size}"


_VOICE: Final = Form("voice", "recording.ogg", "audio/ogg")
_MP3: Final = Form("audio", "recording.mp3", "audio/mpeg")
_M4A: Final = Form("audio", "recording.m4a", "audio/mp4")
_WAV: Final = Form("document", "recording.wav", "audio/x-wav")
_SUBTYPE = re.compile(r"audio/(?:x-)?([a-z0-9]{1,8})", re.IGNORECASE)


def form_of(body: bytes, media_type: str) -> Form:
    """By its first bytes: OGG with OPUS is a voice message, MP3 and M4A play as audio (Bot API, sendVoice and sendAudio). All
    else, Asterisk's WAV above all, no client plays in the chat: it goes as a document."""
    head = body[:64]
    if head.startswith(b"OggS") and b"OpusHead" in head:
        return _VOICE
    if head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06):
        return _MP3
    if head[4:8] == b"ftyp":
        return _M4A
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return _WAV
    found = _SUBTYPE.match(media_type)
    return Form("document", f"recording.{found[1].lower() if found else 'bin'}", media_type)
