"""Drawing: every plugin that decorates in order, one that fails leaves it as it was; and once for chats that are alike."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from callgram import Call, Chat, Context, Message, NumberPlan, Stage, hookimpl
from callgram.calls.facts import Facts, Hangup
from callgram.context import Directory
from callgram.drawing import FRESH, Drawing
from callgram.loader import Plugins, adopt
from callgram.settings import PluginEntry, PluginsFile

NOW = datetime(2025, 9, 14, 9, 5, tzinfo=UTC)


@hookimpl
async def render_message(ctx: Context, call: Call, stage: Stage, chat: Chat) -> Message | None:
    return Message("text")


def decorating(answer: Any) -> SimpleNamespace:
    @hookimpl
    async def decorate_message(ctx: Context, call: Call, stage: Stage, chat: Chat, message: Message) -> Message | None:
        result: Message | None = answer(message)
        return result

    return SimpleNamespace(decorate_message=decorate_message)


def button(name: str) -> SimpleNamespace:
    return decorating(lambda message: msgspec.structs.replace(message, keyboard=(*message.keyboard, ({"text": name},))))


def broken(message: Message) -> Message:
    raise RuntimeError("no")


def plugins_of(**plugins: Any) -> Plugins:
    entries = tuple(PluginEntry(name=name) for name in plugins)
    return Plugins(
        PluginsFile(api=1, plugin=entries),
        [adopt(name, plugin, {}) for name, plugin in plugins.items()],
        lambda outcome: None,
    )


def ended_call() -> Facts:
    end = Hangup(at=NOW, unique_id="1.1", phone="375296254070", call_type=0, status="0")
    return Facts(id=1, enterprise="0367", first_at=NOW, last_at=NOW, hangups=(end,))


def drawn(**plugins: Any) -> Message | None:
    known = plugins_of(drawing=SimpleNamespace(render_message=render_message), **plugins)
    drawing = Drawing(known, Directory, lambda: NOW)
    return asyncio.run(drawing.draw(drawing.tell(ended_call(), NumberPlan()), Stage.HANGUP, 41)).message


def test_each_plugin_gets_what_the_one_before_it_answered() -> None:
    message = drawn(first=button("one"), second=button("two"))
    assert message is not None
    assert [row[0]["text"] for row in message.keyboard] == ["one", "two"]
    assert message.html == "text"


@pytest.mark.parametrize(
    "plugin",
    [
        pytest.param(decorating(lambda message: None), id="passes"),
        pytest.param(decorating(lambda message: "text"), id="answers no message"),
        pytest.param(decorating(broken), id="raises"),
    ],
)
def test_a_plugin_that_adds_nothing_takes_nothing_away(plugin: Any) -> None:
    message = drawn(first=button("one"), second=plugin, third=button("three"))
    assert message is not None
    assert [row[0]["text"] for row in message.keyboard] == ["one", "three"]


@hookimpl
async def render_for_all(ctx: Context, call: Call, stage: Stage) -> Message | None:
    return Message(f"{ctx.now:%H:%M:%S.%f}")


@hookimpl
async def render_for_one(ctx: Context, call: Call, stage: Stage, chat: Chat) -> Message | None:
    return Message(f"{chat.id} {ctx.now:%H:%M:%S.%f}")


@pytest.mark.parametrize(("render", "apart"), [(render_for_all, False), (render_for_one, True)])
def test_a_message_is_drawn_once_for_the_chats_that_its_plugin_does_not_tell_apart(render: Any, apart: bool) -> None:
    moments = iter([NOW, NOW + FRESH / 2, NOW + FRESH, NOW + FRESH])
    drawing = Drawing(plugins_of(drawing=SimpleNamespace(render_message=render)), Directory, lambda: next(moments))
    facts = ended_call()

    async def draw() -> list[str]:
        call = drawing.tell(facts, NumberPlan())
        messages = [await drawing.draw(call, Stage.HANGUP, chat) for chat in (41, 42, 43)]
        messages.append(await drawing.draw(call, Stage.BRIDGE, 43))
        assert {drawn.plugin for drawn in messages} == {"drawing"}
        return [drawn.message.html for drawn in messages if drawn.message]

    first, second, later, other = asyncio.run(draw())
    assert (first == second) is not apart
    assert later != first, "a message says how long ago something was"
    assert other == later or apart


def test_a_story_is_told_once_for_the_same_facts_only() -> None:
    drawing = Drawing(plugins_of(), Directory, lambda: NOW)
    facts = ended_call()
    assert drawing.tell(facts, NumberPlan()) is drawing.tell(facts, NumberPlan())
    longer = msgspec.structs.replace(facts, version=2)
    assert drawing.tell(longer, NumberPlan()).version == 2
