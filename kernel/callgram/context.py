"""Who and where: enterprises, bots, chats, and the context that every hook is called with."""

from __future__ import annotations

from datetime import datetime, tzinfo
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from callgram.numbers import NumberPlan

Mode = Literal["replace", "edit"]
Network = IPv4Network | IPv6Network


class Secret:
    """Text that never shows: not in a repr, an error, a log. ``reveal()`` where it is used."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Locale(msgspec.Struct, frozen=True, kw_only=True):
    """How an enterprise reads: language of the messages, IANA zone of its clock, its number plan, and from how many
    seconds on a hangup counts as late."""

    language: str = "ru"
    zone: str = "Europe/Minsk"
    plan: NumberPlan = NumberPlan()
    late_after_s: float = 120.0

    @property
    def tz(self) -> tzinfo:
        return ZoneInfo(self.zone)


class Enterprise(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. ``number`` is its key, ``token`` what its hosts send (column ``name2``), ``bot`` the bot that writes.

    ``addresses``: where its events may come from, anywhere when empty. ``secrets``: what its hosts may sign events with,
    newest first, at most two; ``require_signature``: unsigned events are refused.
    """

    number: str
    name: str = ""
    token: Secret
    bot_token: Secret
    addresses: tuple[Network, ...] = ()
    secrets: tuple[Secret, ...] = ()
    require_signature: bool = False

    @property
    def bot_id(self) -> int:
        return bot_id(self.bot_token)


def bot_id(token: Secret) -> int:
    """The public half of a bot token, which names the bot and may be shown. 0 for a token that is none."""
    head = token.reveal().partition(":")[0]
    return int(head) if head.isdecimal() and len(head) < 19 else 0


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """Where messages go. Positive ids are people, negative ones groups and channels (Bot API, Chat). ``muted_until``: nothing
    about another call before."""

    id: int
    name: str = ""
    muted_until: datetime | None = None


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """The enterprises and their chats as the store knew them at one moment. ``mark`` changes when anything in it does."""

    mark: str = ""
    enterprises: dict[str, Enterprise] = {}
    chats: dict[str, tuple[Chat, ...]] = {}

    def chats_of(self, number: str) -> tuple[Chat, ...]:
        return self.chats.get(number, ())

    def bots(self) -> dict[int, Secret]:
        """``{bot id: token}`` of every bot that somebody uses."""
        return {
            enterprise.bot_id: enterprise.bot_token for enterprise in self.enterprises.values() if enterprise.bot_id
        }


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook is called with. ``now`` is the only clock of a pure hook (aware UTC); ``settings`` is the plugin's own
    settings struct as it holds for ``enterprise`` (``None`` for hooks that are not about one). ``process`` is how the
    process was started (callgram.settings.Settings); ``store`` is
    the open store. Both are for the lifecycle hooks only, ``None`` elsewhere."""

    now: datetime
    enterprise: Enterprise | None = None
    locale: Locale = Locale()
    settings: Any = None
    process: Any = None
    store: Any = None
