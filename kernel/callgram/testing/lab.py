"""A lab for one plugin: its hooks on real calls, without a server, a store or Telegram."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from callgram.calls.book import Book
from callgram.calls.story import Call, tell
from callgram.cards import Message, Plan, Stage
from callgram.context import Chat, Context, Enterprise, Locale, Secret
from callgram.events import Event, Kind, read_event
from callgram.loader import Loaded, Status, adopt
from callgram.replay import read
from callgram.trace import Action

BEGAN = datetime(2025, 9, 14, 9, 5, 23, tzinfo=UTC)
TOKEN = "375290000001"  # noqa: S105 - made up


class Lab:
    """One plugin, loaded and checked as callgram does it. Made by :func:`lab`."""

    def __init__(self, loaded: Loaded, locale: Locale) -> None:
        self._loaded, self._locale = loaded, locale
        self.enterprise = Enterprise(number="0367", name="Lab", token=Secret(TOKEN), bot_token=Secret("1:lab"))

    def call(self, *events: tuple[str, Mapping[str, Any]] | Path) -> Call:
        """The call that these events tell: ``("dial", {"UniqueId": …})`` a second apart, or a recording's path.

        Raises ValueError when they tell more than one call.
        """
        calls = self.calls(*events)
        if len(calls) != 1:
            raise ValueError(f"the events tell {len(calls)} calls; use calls()")
        return calls[0]

    def calls(self, *events: tuple[str, Mapping[str, Any]] | Path) -> list[Call]:
        """Every call that the events tell, oldest first."""
        book = Book(self._locale.plan)
        for event in self.events(*events):
            book.apply(event)
        return [tell(facts, self._locale.plan) for facts in book.calls.values()]

    def events(self, *events: tuple[str, Mapping[str, Any]] | Path) -> list[Event]:
        """The same as :class:`~callgram.Event` values, from 14.09.2025 09:05:23 UTC on."""
        posts: list[tuple[float, str, bytes]] = []
        for item in events:
            if isinstance(item, Path):
                posts += [(post.at_s, post.kind, post.body) for post in read(item)]
            else:
                posts.append((float(len(posts)), item[0], json.dumps(dict(item[1])).encode()))
        return [
            read_event(
                Kind(kind), body, enterprise="0367", received_at=BEGAN + timedelta(seconds=at_s), event_id=number
            )
            for number, (at_s, kind, body) in enumerate(posts, 1)
        ]

    def plan(self, call: Call, event: Event | None = None) -> Plan | None:
        """What the plugin plans for ``call``."""
        last = event or Event(enterprise="0367", kind=Kind.TIMER, received_at=call.started_at)
        answer: Plan | None = self._ask("plan_message", call=call, event=last)
        return answer

    def render(self, call: Call, stage: Stage, *, chat_id: int = 1) -> Message | None:
        """The message that the plugin draws, ``None`` when it passes."""
        answer: Message | None = self._ask("render_message", call=call, stage=stage, chat=Chat(id=chat_id))
        return answer

    def feed(self, records: Sequence[Event | Action]) -> None:
        """Tell the plugin, started, of events and actions, as its sink would; then shut it down."""

        async def run() -> None:
            await self._run("startup")
            for item in records:
                if isinstance(item, Event):
                    await self._run("on_event", event=item)
                else:
                    await self._run("on_telegram_action", action=item)
            await self._run("shutdown")

        asyncio.run(run())

    def _ask(self, hook: str, **arguments: Any) -> Any:
        return asyncio.run(self._run(hook, **arguments))

    async def _run(self, hook: str, **arguments: Any) -> Any:
        """A raising hook raises here: in a lab its error is what one wants to see."""
        if hook not in self._loaded.hooks:
            return None
        function = getattr(self._loaded.plugin, hook)
        given = {"ctx": self._context(), **arguments}
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        return await function(**{name: given[name] for name in names if name in given})

    def _context(self) -> Context:
        return Context(now=BEGAN, enterprise=self.enterprise, locale=self._locale, settings=self._loaded.settings)


def lab(plugin: Any, *, settings: dict[str, Any] | None = None, locale: Locale | None = None) -> Lab:
    """Load ``plugin`` (a module, or a class with hooks) with ``settings``.

    Raises:
        ValueError: callgram would refuse it; the reason is the one that ``callgram plugins`` would show.
        ConfigError: its settings are wrong.
    """
    loaded = adopt(getattr(plugin, "__name__", "plugin"), plugin, settings or {})
    if loaded.status is not Status.OK:
        raise ValueError(loaded.error)
    return Lab(loaded, locale or Locale())
