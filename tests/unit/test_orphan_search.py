"""The search for a lost message must not take for it what was sent a moment ago for another card of the same chat."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from callgram import Call, Chat, Context, Message, Secret, Stage, hookimpl
from callgram.calls.facts import Facts, Hangup
from callgram.cards import Card, Shown
from callgram.context import Directory
from callgram.delivery import Delivery, Ports
from callgram.drawing import Drawing
from callgram.loader import Plugins, adopt
from callgram.settings import PluginEntry, PluginsFile
from callgram.store import Claim, Progress
from callgram.telegram.outcome import Kind, Outcome, Reason

NOW = datetime(2025, 9, 14, 9, 5, tzinfo=UTC)
TEXT = Message("text")


@hookimpl
async def render_message(ctx: Context, call: Call, stage: Stage, chat: Chat) -> Message | None:
    return TEXT


class Probed:
    """A Telegram in which id 8, next to the known 7, belongs to the bot."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def call(self, token: Secret, method: str, payload: dict[str, Any], **how: Any) -> Outcome:
        if method == "editMessageReplyMarkup":
            self.asked.append(payload["message_id"])
            if payload["message_id"] != 8:
                return Outcome(kind=Kind.REJECTED, reason=Reason.GONE)
        return Outcome(kind=Kind.OK, reason=Reason.DONE_ALREADY)


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_card_in_hand_of_a_chat_searches(first: bool) -> None:
    known = Plugins(
        PluginsFile(api=1, plugin=(PluginEntry(name="drawing"),)),
        [adopt("drawing", SimpleNamespace(render_message=render_message), {})],
        lambda outcome: None,
    )
    end = Hangup(at=NOW, unique_id="1.1", phone="375296254070", call_type=0, status="0")
    facts = Facts(id=1, enterprise="0367", first_at=NOW, last_at=NOW, hangups=(end,))
    long_ago = NOW - timedelta(minutes=1)
    shown = tuple(
        Shown(message_id=message_id, stage=Stage.HANGUP, digest=TEXT.digest, sent_at=long_ago) for message_id in (0, 7)
    )
    card = Card(enterprise="0367", call_id=1, chat_id=41, bot_id=700, stage=Stage.HANGUP, shown=shown)
    reports: list[Progress] = []
    telegram = Probed()
    limits = SimpleNamespace(ready_at=lambda bot, chat, now: now, take=lambda bot, chat, now: None)

    async def sent_ids(bot: int, chat: int, around: datetime) -> list[tuple[int, datetime]]:
        return [(7, long_ago)]

    ports = Ports(
        plugins=known,
        drawing=Drawing(known, Directory, lambda: NOW),
        session=telegram,
        limits=limits,  # type: ignore[arg-type]
        clock=lambda: NOW,
        monotonic=lambda: 0.0,
        chance=lambda: 0.0,
        holds=lambda bot, fence: True,
        token_of=lambda bot: None,
        report=reports.append,
        limit_chat=None,  # type: ignore[arg-type]
        move_chat=None,  # type: ignore[arg-type]
        sent_ids=sent_ids,
    )
    asyncio.run(Delivery(ports, Claim(card=card, facts=facts), 1, Secret("700:x"), first=first).deliver())
    assert (8 in telegram.asked) is first
    assert reports[-1].released
    assert reports[-1].retry_at == NOW, "it is due again at once"
    assert any(message.is_orphan for message in reports[-1].shown) is not first
