"""Reading: what the call page, the calls list, exports and the command line ask of the store. A part of its protocol.

Nothing here changes calls. Every question names the enterprises that the asker may see. All times are aware UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from callgram.calls.facts import Facts
from callgram.calls.story import Direction, Result
from callgram.cards import Card
from callgram.trace import Record

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SEARCHED = 100  # calls that are looked at, at most, for each row of a page, by a filter that no index answers


class CallFile(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is kept about one call.

    ``records`` are its events and actions, oldest first, also those of its channels that could not be planned:
    ``failed`` is ``{event id: what went wrong}``, ``repeats`` is ``{event id: how often it was posted again}`` of those that
    were; the repetitions themselves are not kept. ``channels`` are the ids that the call is found by (UniqueIds and
    Linkedids). ``absorbed`` are the ids of calls that turned out to be parts of it. ``cut``: there are more records than
    were asked for.
    """

    facts: Facts
    records: tuple[Record, ...]
    cards: tuple[Card, ...]
    channels: tuple[str, ...]
    failed: dict[int, str] = {}
    repeats: dict[int, int] = {}
    absorbed: tuple[int, ...] = ()
    cut: bool = False


class CallFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls to list. ``enterprises`` ``None``: all. ``number``: digits that the client's canonical number ends with.

    ``since`` is included, ``until`` is not. ``unsent``: nothing of the call is visible in any chat.
    """

    enterprises: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    number: str = ""
    extension: str = ""
    direction: Direction | None = None
    result: Result | None = None
    unsent: bool = False


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a list. ``n_chats``: chats that show, or are to show, it; ``n_shown``: in which something is visible."""

    facts: Facts
    n_chats: int
    n_shown: int


class CallPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. ``next`` is the key of the following page, ``""`` at the end. ``searched_to`` is how far back this page
    looked: a page may be short, or empty, and yet not the last."""

    calls: tuple[Listed, ...]
    next: str = ""
    searched_to: datetime | None = None


class Reading(Protocol):
    """The reading half of :class:`callgram.store.Store`."""

    async def find_calls(self, enterprises: Sequence[str], channel: str) -> list[tuple[str, int]]:
        """``[(enterprise, call id)]`` of the calls that have ``channel`` (a UniqueId of any leg, or a Linkedid), newest first.

        UniqueIds are unique per host only: two enterprises may have the same.
        """
        ...

    async def call_file(self, enterprise: str, call_id: int, *, limit: int = 10_000) -> CallFile | None:
        """Everything about a call, by its id or that of a call that it absorbed; ``None``: there is none."""
        ...

    async def list_calls(self, wanted: CallFilter, *, after: str = "", limit: int = 50) -> CallPage:
        """A page of the calls that ``wanted`` describes. Raises ValueError when ``after`` is no key of a page."""
        ...

    async def live_calls(self, enterprises: tuple[str, ...] | None, *, limit: int = 50) -> list[Listed]:
        """The calls that have not ended, newest first."""
        ...

    async def cursors(self) -> dict[str, str]:
        """``{sink: where it is}`` of every sink that ever saved its place."""
        ...

    async def cursor_at(self, moment: datetime) -> str:
        """The place in front of the first record of ``moment`` or later; the end where there is none."""
        ...

    async def kept(self, plugin: str) -> dict[str, bytes]:
        """What ``plugin`` keeps in the store, by key: a few small things such as keys and accounts."""
        ...

    async def keep(self, plugin: str, key: str, value: bytes | None) -> None:
        """Keep ``value`` under ``key`` of ``plugin``; ``None`` forgets it."""
        ...

    async def keep_first(self, plugin: str, key: str, value: bytes) -> bytes:
        """Keep ``value`` unless something is kept there already; answers what is kept now. For keys made on first use."""
        ...


def write_page_key(at: datetime, number: int) -> str:
    return f"{(at - EPOCH) // timedelta(microseconds=1)}-{number}"


def read_page_key(text: str) -> tuple[int, int]:
    """Microseconds since the epoch, and the call's id. Raises ValueError."""
    micros, _, number = text.partition("-")
    if not (micros.isdecimal() and number.isdecimal() and len(micros) < 18 and len(number) < 19):
        raise ValueError(f"{text[:40]!r} is no key of a page")
    return int(micros), int(number)
