"""Everything the simulator knows. Changes go through here, so that truth log and chat view see each of them."""

from typing import TYPE_CHECKING, Any

import msgspec

from callgram_simulator.chats import Bot, Chat, ChatKind, Dialog, Record, default_title, has_keyboard, kind_of
from callgram_simulator.clock import Clock
from callgram_simulator.errors import ApiError
from callgram_simulator.faults import Faults
from callgram_simulator.feed import LOOK_AGAIN, Feed
from callgram_simulator.flood import Flood
from callgram_simulator.markup import utf16_length
from callgram_simulator.settings import SimulatorSettings
from callgram_simulator.truth import TruthLog
from callgram_simulator.wire import CallbackQuery, Entity, Media, Message, Update, User

if TYPE_CHECKING:
    from callgram_simulator.media import StoredFile

_MAX_TOKEN = 80
_MAX_BOT_ID = 1 << 54
_MAX_FILES = 200


class State:
    """The bots, chats and messages of one simulator, all in memory. Belongs to one event loop."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.feed = Feed()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the settings."""
        self.clock = Clock()
        self.truth = TruthLog(self.settings.truth_limit)
        self.faults = Faults()
        self.flood = Flood(self.settings.flood, self.clock)
        self.bots: dict[int, Bot] = {}
        self.chats: dict[int, Chat] = {}
        self.users: dict[int, User] = {}
        self.files: dict[str, StoredFile] = {}
        """The newest files by their id; older ones are known to nobody any more."""
        self._n_files = 0
        self.feed.publish(LOOK_AGAIN)

    def change_settings(self, **changes: Any) -> None:
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self.flood.settings = self.settings.flood

    def bot_with(self, token: str) -> Bot:
        """Answer the bot that ``token`` opens. Raise ``ApiError`` (R04, R05, R85)."""
        number, colon, _ = token.partition(":")
        if not colon or len(token) > _MAX_TOKEN or token[0] == "0" or not number.isascii() or not number.isdigit():
            raise self._malformed_token()
        bot = self.bots.get(int(number))
        if bot is not None and (bot.token == token or (bot.token is None and self.settings.any_token)):
            return bot
        if bot is not None or not self.settings.any_token:
            raise ApiError(401, "Unauthorized")
        if int(number) >= _MAX_BOT_ID:
            raise self._malformed_token()
        if self.settings.flood.enabled:
            self.flood.admit_token()
        return self.bot(int(number))

    def _malformed_token(self) -> ApiError:
        if self.settings.answers.malformed_token == 404:
            return ApiError(404, "Not Found")
        return ApiError(401, "Unauthorized: invalid token specified")

    def bot(self, bot_id: int) -> Bot:
        """Answer the bot, made now if need be."""
        bot = self.bots.get(bot_id)
        if bot is None:
            user = User(
                id=bot_id,
                is_bot=True,
                first_name=f"Bot {bot_id}",
                username=f"sim{bot_id}_bot",
                can_join_groups=True,
                can_read_all_group_messages=False,
                supports_inline_queries=False,
            )
            bot = self.bots[bot_id] = Bot(user=user)
        return bot

    def dialog(self, bot: Bot, chat_id: int, kind: ChatKind | None = None, title: str | None = None) -> Dialog:
        """Answer the bot's side of the chat, made now if need be. ``kind`` and ``title`` count only for a new chat."""
        dialog = bot.dialogs.get(chat_id)
        if dialog is not None:
            return dialog
        chat = self.chats.get(chat_id)
        if chat is None:
            kind = kind or kind_of(chat_id)
            known = self.users.get(chat_id)
            name = title or (known.first_name if known else default_title(chat_id, kind))
            chat = self.chats[chat_id] = Chat(id=chat_id, kind=kind, title=name)
        dialog = bot.dialogs[chat_id] = Dialog(bot=bot, chat=chat, info=chat.info())
        chat.bot_ids.append(bot.id)
        self.feed.publish({"type": "chat", "bot_id": bot.id, "chat_id": chat_id})
        return dialog

    def described(self, chat: Chat) -> None:
        """Let a chat's new title and kind be seen."""
        for bot_id in chat.bot_ids:
            self.bots[bot_id].dialogs[chat.id].info = chat.info()
            self.feed.publish({"type": "chat", "bot_id": bot_id, "chat_id": chat.id})

    def user(self, user_id: int) -> User:
        return self.users.get(user_id) or User(id=user_id, is_bot=False, first_name=default_title(user_id, "private"))

    def new_message(self, dialog: Dialog, author: User | None, **fields: Any) -> Message:
        """Answer a message with the chat's next number, not in the chat yet."""
        return Message(
            message_id=dialog.next_id(),
            chat=dialog.info,
            date=int(self.clock.now()),
            from_=None if dialog.chat.kind == "channel" else author,
            **fields,
        )

    def send(self, dialog: Dialog, record: Record) -> None:
        """Put a new message into the chat."""
        dialog.keep(record, self.settings)
        self._tell("send", dialog, record)

    def keep_file(self, file: "StoredFile") -> Media:
        """Answer the file with its id, which is new unless it has one."""
        if file.media.file_id:
            return file.media
        self._n_files += 1
        file_id = f"{file.kind}-{file.bot_id}-{self._n_files}"
        media = msgspec.structs.replace(file.media, file_id=file_id, file_unique_id=str(self._n_files))
        self.files[file_id] = file._replace(media=media)
        if len(self.files) > _MAX_FILES:
            del self.files[next(iter(self.files))]
        return media

    def edit(self, dialog: Dialog, record: Record, **changes: Any) -> Message:
        record.message = msgspec.structs.replace(record.message, edit_date=int(self.clock.now()), **changes)
        self._tell("edit", dialog, record)
        return record.message

    def delete(self, dialog: Dialog, message_id: int, by_bot: bool = True) -> None:
        record = dialog.records.pop(message_id)
        if by_bot:
            self.truth.add("delete", self.clock.now(), dialog.bot.id, record.message)
        self._publish("delete", dialog, record)

    def _tell(self, kind: Any, dialog: Dialog, record: Record) -> None:
        if record.bot_id is not None:
            self.truth.add(kind, self.clock.now(), record.bot_id, record.message)
        self._publish(kind, dialog, record)

    def _publish(self, kind: str, dialog: Dialog, record: Record) -> None:
        if not self.feed.is_watched:
            return
        bot_ids = dialog.chat.bot_ids if dialog.chat.is_shared else [dialog.bot.id]
        for bot_id in bot_ids:
            event = {"type": kind, "bot_id": bot_id, "chat_id": dialog.chat.id, "message": record.message}
            self.feed.publish(event)

    def write_as_user(self, dialog: Dialog, text: str, user_id: int | None = None, **fields: Any) -> Message:
        """A person writes in the chat: the message gets a number and its bot an update."""
        author = self.user(user_id or (dialog.chat.id if dialog.chat.id > 0 else 1))
        command = text.split(maxsplit=1)[0] if text.startswith("/") else ""
        entities = (Entity(type="bot_command", offset=0, length=utf16_length(command)),) if command else ()
        message = self.new_message(dialog, author, text=text, entities=entities, **fields)
        self.send(dialog, Record(message=message))
        inbox, is_post = dialog.bot.inbox, dialog.chat.kind == "channel"
        update_id = inbox.next_update_id()
        inbox.add(
            Update(update_id=update_id, channel_post=message)
            if is_post
            else Update(update_id=update_id, message=message)
        )
        return message

    def press(self, dialog: Dialog, message_id: int, data: str, user_id: int | None = None) -> str | None:
        """A person presses the button with ``data``: answer the callback query's id, ``None`` if there is no such."""
        record = dialog.records.get(message_id)
        if record is None or not has_keyboard(record.message.reply_markup, data):
            return None
        bot = self.bots.get(record.bot_id or dialog.bot.id, dialog.bot)
        update_id = bot.inbox.next_update_id()
        query = CallbackQuery(
            id=f"{bot.id}{update_id:09d}",
            from_=self.user(user_id or (dialog.chat.id if dialog.chat.id > 0 else 1)),
            message=record.message,
            chat_instance=str(dialog.chat.id),
            data=data,
        )
        bot.callbacks[query.id] = self.clock.now()
        bot.inbox.add(Update(update_id=update_id, callback_query=query))
        return query.id
