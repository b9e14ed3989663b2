"""What goes over the wire, in the Bot API's own spelling. Values only; absent fields are left out of the JSON."""

from msgspec import Struct


class User(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: int
    is_bot: bool
    first_name: str
    username: str | None = None
    can_join_groups: bool | None = None
    can_read_all_group_messages: bool | None = None
    supports_inline_queries: bool | None = None


class ChatInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: int
    type: str
    first_name: str | None = None
    title: str | None = None
    is_forum: bool = False


class Entity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    type: str
    offset: int
    length: int
    url: str | None = None
    user: User | None = None
    language: str | None = None
    custom_emoji_id: str | None = None
    unix_time: int | None = None


class CopyText(Struct, frozen=True, kw_only=True):
    text: str


class Button(Struct, frozen=True, kw_only=True, omit_defaults=True):
    text: str
    url: str | None = None
    callback_data: str | None = None
    copy_text: CopyText | None = None
    web_app: dict[str, str] | None = None
    switch_inline_query: str | None = None
    switch_inline_query_current_chat: str | None = None
    style: str | None = None


class Keyboard(Struct, frozen=True, kw_only=True):
    inline_keyboard: tuple[tuple[Button, ...], ...]


class Origin(Struct, frozen=True, kw_only=True):
    type: str
    date: int
    sender_user: User


class Media(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Voice, an Audio or a Document."""

    file_id: str
    file_unique_id: str
    file_name: str | None = None
    mime_type: str | None = None
    file_size: int | None = None
    duration: int | None = None
    title: str | None = None
    performer: str | None = None


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    message_id: int
    chat: ChatInfo
    date: int
    from_: User | None = None
    message_thread_id: int | None = None
    is_topic_message: bool = False
    forward_origin: Origin | None = None
    reply_to_message: "Message | None" = None
    edit_date: int | None = None
    text: str | None = None
    entities: tuple[Entity, ...] = ()
    caption: str | None = None
    caption_entities: tuple[Entity, ...] = ()
    voice: Media | None = None
    audio: Media | None = None
    document: Media | None = None
    photo: tuple[dict[str, str | int], ...] = ()
    pinned_message: "Message | None" = None
    reply_markup: Keyboard | None = None


class CallbackQuery(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    id: str
    from_: User
    message: Message
    chat_instance: str
    data: str


class Update(Struct, frozen=True, kw_only=True, omit_defaults=True):
    update_id: int
    message: Message | None = None
    channel_post: Message | None = None
    callback_query: CallbackQuery | None = None
