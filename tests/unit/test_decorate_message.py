"""A rendered message passes through every plugin that decorates, in order; one that fails leaves it as it was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from callgram import Call, Chat, Context, Message, Secret, Stage, hookimpl
from callgram.calls.facts import Facts, Hangup
from callgram.calls.story import tell
from callgram.cards import Card
from callgram.context import Directory
from callgram.delivery import Delivery, Ports
from callgram.loader import Plugins, adopt
from callgram.settings import PluginEntry, PluginsFile
from callgram.store import Claim

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


def drawn(**plugins: Any) -> Message | None:
    entries = tuple(PluginEntry(name=name) for name in ("drawing", *plugins))
    loaded = [adopt("drawing", SimpleNamespace(render_message=render_message), {})]
    loaded += [adopt(name, plugin, {}) for name, plugin in plugins.items()]
    known = Plugins(PluginsFile(api=1, plugin=entries), loaded, lambda outcome: None)
    end = Hangup(at=NOW, unique_id="1.1", phone="375296254070", call_type=0, status="0")
    facts = Facts(id=1, enterprise="0367", first_at=NOW, last_at=NOW, hangups=(end,))
    card = Card(enterprise="0367", call_id=1, chat_id=41, bot_id=700, stage=Stage.HANGUP)
    unused: dict[str, Any] = dict.fromkeys(Ports.__struct_fields__)
    ports = Ports(**unused | {"plugins": known, "directory": Directory, "clock": lambda: NOW, "tell": tell})
    return asyncio.run(Delivery(ports, Claim(card=card, facts=facts), 1, Secret("700:x"))._draw())


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
