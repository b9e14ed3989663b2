"""Drawing: from a call's facts to the message of a chat, by the plugins of its enterprise.

Each story is told once, and each message drawn once for all chats that no plugin tells apart: a card of a call is mostly
followed by the same one for the next chat.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from callgram.calls.facts import Facts
from callgram.calls.story import Call, tell
from callgram.cards import Message, Stage
from callgram.context import Chat, Context, Directory
from callgram.loader import Plugins
from callgram.numbers import NumberPlan

K = TypeVar("K")
V = TypeVar("V")

REMEMBERED = 512  # stories, and as many messages
FRESH = timedelta(seconds=1)  # a message may say how long ago something was


class Drawn(NamedTuple):
    """A message, ``None`` where no plugin draws it, and the plugin that drew it."""

    message: Message | None = None
    plugin: str = ""


class Drawing:
    """``clock`` tells the time of day, ``directory`` which chats an enterprise has."""

    def __init__(self, plugins: Plugins, directory: Callable[[], Directory], clock: Callable[[], datetime]) -> None:
        self._plugins, self._directory, self._clock = plugins, directory, clock
        # By identity; what is meant is kept beside, so that the id stays its own.
        self._told: OrderedDict[tuple[int, NumberPlan], tuple[Facts, Call]] = OrderedDict()
        self._drawn: OrderedDict[tuple[int, Stage], tuple[Call, datetime, Drawn]] = OrderedDict()

    def tell(self, facts: Facts, plan: NumberPlan) -> Call:
        """See callgram.calls.story.tell."""
        known = self._told.get((id(facts), plan))
        if known is None:
            known = _remember(self._told, (id(facts), plan), (facts, tell(facts, plan)))
        return known[1]

    def remember(self, facts: Facts, plan: NumberPlan, call: Call) -> None:
        """``call`` is what ``tell`` would answer."""
        _remember(self._told, (id(facts), plan), (facts, call))

    async def draw_ahead(self, call: Call, stage: Stage) -> None:
        """``draw`` will be asked for some chat soon."""
        enabled = self._plugins.enabled(call.enterprise)
        if not self._by_chat(enabled):
            await self._draw(call, stage, 0, enabled)

    async def draw(self, call: Call, stage: Stage, chat_id: int) -> Drawn:
        """The message of the chat at ``stage``."""
        enabled = self._plugins.enabled(call.enterprise)
        if self._by_chat(enabled):
            return await self._ask(call, stage, chat_id, enabled, self._clock())
        return await self._draw(call, stage, chat_id, enabled)

    def _by_chat(self, enabled: tuple[str, ...]) -> bool:
        return self._plugins.dispatcher.takes("chat", enabled, "render_message", "decorate_message")

    async def _draw(self, call: Call, stage: Stage, chat_id: int, enabled: tuple[str, ...]) -> Drawn:
        now = self._clock()
        known = self._drawn.get((id(call), stage))
        if known is None or not timedelta() <= now - known[1] < FRESH:
            drawn = await self._ask(call, stage, chat_id, enabled, now)
            known = _remember(self._drawn, (id(call), stage), (call, now, drawn))
        return known[2]

    async def _ask(self, call: Call, stage: Stage, chat_id: int, enabled: tuple[str, ...], now: datetime) -> Drawn:
        plugins, directory, number = self._plugins, self._directory(), call.enterprise
        enterprise, locale = directory.enterprises.get(number), plugins.reading(number)[1]
        chat = next((chat for chat in directory.chats_of(number) if chat.id == chat_id), None) or Chat(id=chat_id)

        def arguments(plugin: str) -> dict[str, Any]:
            ctx = Context(now=now, enterprise=enterprise, locale=locale, settings=plugins.settings(plugin, number))
            return {"ctx": ctx, "call": call, "stage": stage, "chat": chat}

        answer = await plugins.dispatcher.first("render_message", enabled, arguments)
        if answer is None or not isinstance(answer.value, Message):
            return Drawn()
        message = answer.value
        for plugin in plugins.dispatcher.plugins("decorate_message"):
            if plugin not in enabled:
                continue

            def with_message(name: str, message: Message = message) -> dict[str, Any]:
                return arguments(name) | {"message": message}

            added = await plugins.dispatcher.first("decorate_message", (plugin,), with_message)
            if added is not None and isinstance(added.value, Message):
                message = added.value
        return Drawn(message, answer.plugin)


def _remember(kept: OrderedDict[K, V], key: K, value: V) -> V:
    kept[key] = value
    if len(kept) > REMEMBERED:
        kept.popitem(last=False)
    return value
