"""Keeps chats in a file over a restart of the simulator: what people would still see, and how far ids have counted.

Not kept: truth log, faults, clock, updates. Written when something changed, and at the end.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec import DecodeError, Struct, json

from callgram_simulator.chats import Chat, ChatKind, Record
from callgram_simulator.state import State
from callgram_simulator.wire import User

_EVERY_S = 0.5


class _KeptChat(Struct):
    id: int
    kind: ChatKind
    title: str
    last_id: int
    records: list[Record]


class _KeptDialog(Struct):
    chat_id: int
    records: list[Record]


class _KeptBot(Struct):
    user: User
    token: str | None
    last_id: int
    dialogs: list[_KeptDialog]


class _Kept(Struct):
    bots: list[_KeptBot]
    chats: list[_KeptChat]


def save(state: State, path: Path) -> None:
    """Write the chats as they stand now; a crash in the middle leaves the file as it was. It holds the bots' tokens."""
    bots = [
        _KeptBot(
            bot.user,
            bot.token,
            bot.last_id,
            [_KeptDialog(key, [*one.own_records.values()]) for key, one in bot.dialogs.items()],
        )
        for bot in state.bots.values()
    ]
    chats = [
        _KeptChat(chat.id, chat.kind, chat.title, chat.last_id, [*chat.records.values()])
        for chat in state.chats.values()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(json.encode(_Kept(bots, chats)))
    new.replace(path)


def restore(state: State, path: Path) -> None:
    """Take up the chats that :func:`save` wrote. A file that is not there, or of another version, is no chats."""
    try:
        kept = json.decode(path.read_bytes(), type=_Kept)
    except (FileNotFoundError, DecodeError):
        return
    for chat in kept.chats:
        records = {record.message.message_id: record for record in chat.records}
        state.chats[chat.id] = Chat(id=chat.id, kind=chat.kind, title=chat.title, last_id=chat.last_id, records=records)
    for one in kept.bots:
        bot = state.bot(one.user.id)
        bot.user, bot.token, bot.last_id = one.user, one.token, one.last_id
        for dialog in one.dialogs:
            own = {record.message.message_id: record for record in dialog.records}
            state.dialog(bot, dialog.chat_id).own_records.update(own)


@contextlib.asynccontextmanager
async def kept(state: State, path: Path) -> AsyncIterator[None]:
    """Restore now, save whenever something changed and at the end."""
    restore(state, path)
    saving = asyncio.create_task(_keep_saving(state, path), name="keeping")
    try:
        yield
    finally:
        saving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await saving
        save(state, path)


async def _keep_saving(state: State, path: Path) -> None:
    seen = -1
    while True:
        await asyncio.sleep(_EVERY_S)
        if state.truth.last_seq != seen:
            seen = state.truth.last_seq
            save(state, path)
