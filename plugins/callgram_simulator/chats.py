"""Bots, chats and the messages in them: the state that one bot sees of one chat, and who numbers its messages."""

from enum import StrEnum
from typing import Literal

from msgspec import Struct, field

from callgram_simulator.inbox import Inbox
from callgram_simulator.settings import SimulatorSettings
from callgram_simulator.wire import ChatInfo, Keyboard, Message, User

ChatKind = Literal["private", "group", "supergroup", "channel"]
GROUP_CREATED_ID = 1
"""The service message that opens every supergroup and channel."""
_FIRST_SUPERGROUP_ID = -1_000_000_000_000


class ChatState(StrEnum):
    """What stands between a bot and a chat. Anything but ``READY`` refuses some methods (rules R28-R39)."""

    READY = "ready"
    NOT_STARTED = "not_started"
    BLOCKED = "blocked"
    DEACTIVATED = "deactivated"
    IS_BOT = "is_bot"
    KICKED = "kicked"
    LEFT = "left"
    DELETED = "deleted"
    UPGRADED = "upgraded"
    NO_TEXT_RIGHT = "no_text_right"
    NO_POST_RIGHT = "no_post_right"
    NO_WRITE_ACCESS = "no_write_access"
    REFUSING = "refusing"
    """Sends get 400 with the CAPS code in ``Dialog.refusal``."""


class Record(Struct, kw_only=True, eq=False):
    """A message as it stands now, with what the wire does not say about it."""

    message: Message
    bot_id: int | None = None
    """The bot that wrote it; ``None`` for a person."""
    kind: Literal["text", "media", "service"] = "text"
    has_reply_keyboard: bool = False


class Chat(Struct, kw_only=True, eq=False):
    """A chat as everybody sees it. Only supergroups and channels share messages and numbers (rule R93)."""

    id: int
    kind: ChatKind
    title: str
    is_forum: bool = False
    topics: set[int] = field(default_factory=set)
    last_id: int = GROUP_CREATED_ID
    records: dict[int, Record] = field(default_factory=dict)
    bot_ids: list[int] = field(default_factory=list)

    @property
    def is_shared(self) -> bool:
        return self.kind in ("supergroup", "channel")

    def info(self) -> ChatInfo:
        if self.kind == "private":
            return ChatInfo(id=self.id, type=self.kind, first_name=self.title)
        return ChatInfo(id=self.id, type=self.kind, title=self.title, is_forum=self.is_forum)


class Bot(Struct, kw_only=True, eq=False):
    user: User
    token: str | None = None
    """``None`` until a token is registered: then any well-formed one opens the bot if settings allow it."""
    last_id: int = 0
    """One counter for all private chats and basic groups of the bot (rule R92)."""
    state: Literal["running", "closing", "logged out"] = "running"
    n_active: int = 0
    dialogs: "dict[int, Dialog]" = field(default_factory=dict)
    callbacks: dict[str, float] = field(default_factory=dict)
    """When each unanswered callback query was made."""
    inbox: Inbox = field(default_factory=Inbox)

    @property
    def id(self) -> int:
        return self.user.id

    def __repr__(self) -> str:
        return f"Bot({self.id})"


class Dialog(Struct, kw_only=True, eq=False):
    """One bot's side of one chat."""

    bot: Bot
    chat: Chat
    info: ChatInfo
    state: ChatState = ChatState.READY
    refusal: str = "CHAT_WRITE_FORBIDDEN"
    migrate_to: int | None = None
    can_delete: bool = False
    """The bot may delete what others wrote."""
    has_topics: bool = False
    """Private chats: the bot is in topic mode, and the chat's topics count."""
    own_records: dict[int, Record] = field(default_factory=dict)
    n_unsent: int = 0

    @property
    def records(self) -> dict[int, Record]:
        return self.chat.records if self.chat.is_shared else self.own_records

    def next_id(self) -> int:
        counter: Bot | Chat = self.chat if self.chat.is_shared else self.bot
        counter.last_id += 1
        return counter.last_id

    def keep(self, record: Record, settings: SimulatorSettings) -> None:
        records = self.records
        records[record.message.message_id] = record
        if len(records) > settings.messages_per_chat:
            del records[next(iter(records))]


def kind_of(chat_id: int) -> ChatKind:
    """Answer the kind that an id shows; a channel can't be told from a supergroup."""
    if chat_id > 0:
        return "private"
    return "supergroup" if chat_id <= _FIRST_SUPERGROUP_ID else "group"


def default_title(chat_id: int, kind: ChatKind) -> str:
    number = str(abs(chat_id))
    match kind:
        case "private":
            return f"Chat {number}"
        case "channel":
            return f"Channel {number.removeprefix('100')}"
        case "supergroup":
            return f"Group {number.removeprefix('100')}"
        case "group":
            return f"Group {number}"


def has_keyboard(keyboard: Keyboard | None, data: str) -> bool:
    """Whether a button of ``keyboard`` carries ``data``."""
    return keyboard is not None and any(b.callback_data == data for row in keyboard.inline_keyboard for b in row)
