"""What a store does with the end of a reply, which is told of a card that nobody has in hand for it."""

from __future__ import annotations

import msgspec
import pytest

from callgram.cards import Stage
from callgram.replying import NOT_IN_HAND
from callgram.store import Progress

from .test_store_conformance import (
    BOT,
    CHAT,
    World,
    action,
    call_row,
    card_row,
    claim,
    conforms,
    owner,
    plan,
    progress,
    shown,
    visible,
    world,
)

__all__ = ["world"]

PROMISE = msgspec.structs.replace(shown(0, Stage.HANGUP), audio=True, digest="key")
SENT = msgspec.structs.replace(PROMISE, message_id=9)


def end_of(first: Progress) -> Progress:
    told = (action(first.call_id, message_id=9),)
    return msgspec.structs.replace(first, fence=NOT_IN_HAND, shown=(SENT,), seen=(), actions=told, released=False)


@conforms
@pytest.mark.parametrize("in_hand", [True, False])
async def test_a_reply_is_added_to_its_card_whoever_has_it(world: World, in_hand: bool) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1, stage=Stage.HANGUP)])
    [first] = await claim(store)
    promised = progress(first, PROMISE, shown(7, Stage.HANGUP))
    late = end_of(promised)
    assert await claim(store, done=[promised]) == []
    if in_hand:
        await plan(store, calls=[call_row(1)], cards=[card_row(1, stage=Stage.HANGUP)])
        [again] = await claim(store)
        assert again.card.shown == (PROMISE, shown(7, Stage.HANGUP))
        assert await claim(store, done=[late], busy=[(BOT, CHAT)]) == []
        [again] = await claim(store, done=[progress(again, *again.card.shown)])
    else:
        [again] = await claim(store, done=[late])
    assert set(again.card.shown) == {SENT, PROMISE, shown(7, Stage.HANGUP)}
    assert again.card.shown[-1] == shown(7, Stage.HANGUP), "a text is last"
    assert not again.ambiguous


@conforms
async def test_a_reply_of_a_call_that_was_absorbed_goes_to_the_survivor(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1, stage=Stage.HANGUP)])
    [first] = await claim(store)
    promised = progress(first, PROMISE, shown(7, Stage.HANGUP))
    await claim(store, done=[promised])
    await plan(store, calls=[call_row(2)], cards=[card_row(2, stage=Stage.HANGUP)], absorbed={1: 2})
    await claim(store, done=[end_of(promised)])
    assert 9 in (await visible(store, 2))[CHAT]
