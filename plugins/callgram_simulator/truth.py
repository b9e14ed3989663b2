"""The truth log: what really was sent, edited and deleted, so that a test can count losses and duplicates."""

from collections import deque
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from callgram_simulator.wire import Entity, Keyboard, Message


class TruthEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    seq: int
    """Counts from 1 without gaps; ``since=seq`` asks for what came after."""
    at: float
    """Unix time by the simulator's clock."""
    kind: Literal["send", "edit", "delete"]
    bot_id: int
    chat_id: int
    message_id: int
    text: str | None = None
    entities: tuple[Entity, ...] = ()
    reply_markup: Keyboard | None = None
    media: Literal["voice", "audio", "document"] | None = None
    file_id: str | None = None
    reply_to: int | None = None


class TruthLog:
    """The newest entries, oldest first."""

    def __init__(self, limit: int) -> None:
        self._entries: deque[TruthEntry] = deque(maxlen=limit)
        self.last_seq = 0

    def add(self, kind: Literal["send", "edit", "delete"], at: float, bot_id: int, message: Message) -> None:
        self.last_seq += 1
        shown = kind != "delete"
        files = {"voice": message.voice, "audio": message.audio, "document": message.document}
        name, file = next(((name, file) for name, file in files.items() if file and shown), (None, None))
        self._entries.append(
            TruthEntry(
                seq=self.last_seq,
                at=at,
                kind=kind,
                bot_id=bot_id,
                chat_id=message.chat.id,
                message_id=message.message_id,
                text=(message.text or message.caption) if shown else None,
                entities=message.entities if shown else (),
                reply_markup=message.reply_markup if shown else None,
                media=name,  # type: ignore[arg-type]
                file_id=file.file_id if file else None,
                reply_to=message.reply_to_message.message_id if shown and message.reply_to_message else None,
            )
        )

    def since(self, seq: int) -> list[TruthEntry]:
        skipped = max(seq - (self.last_seq - len(self._entries)), 0)
        return [entry for index, entry in enumerate(self._entries) if index >= skipped]

    def clear(self) -> None:
        self._entries.clear()

    def __iter__(self) -> Iterator[TruthEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
