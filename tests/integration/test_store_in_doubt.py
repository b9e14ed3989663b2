"""What a store does with cards that two nodes had in hand, and with chats that are suspended: clauses of callgram.store."""

from __future__ import annotations

import msgspec

from callgram.cards import Stage
from callgram.store import ChatLimit, Store
from callgram.trace import Action, Op

from .test_store_conformance import (
    BOT,
    CHAT,
    NOW,
    S,
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


async def skips(store: Store) -> list[tuple[int, str, str]]:
    items = [record.item for record in await store.trace("", limit=99)]
    return [(one.call_id, one.stage.value, one.reason) for one in items if isinstance(one, Action) and one.op is Op.SKIP]


@conforms
async def test_what_a_frozen_node_sent_is_gained_by_the_card_of_its_successor(world: World) -> None:
    store, heir = await owner(world), await world.open()
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [lost] = await claim(store)
    await heir.hold_leases("a", [BOT], ttl_s=30)
    [taken] = await claim(heir, 2)
    late = progress(lost, shown(1), actions=(action(1, message_id=1),))
    assert await claim(store, 1, done=[late]) == []
    assert await claim(store, 1, done=[late]) == []
    assert await visible(heir, 1) == {CHAT: [1]}, "once, however often it is said"
    [again] = await claim(heir, 2, done=[progress(taken, shown(2))])
    assert again.card.shown == (shown(1), shown(2)), "what is gained counts as older"
    assert again.card.version > taken.card.version


@conforms
async def test_a_second_takeover_leaves_a_message_without_an_id_for_the_first(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    await claim(store)
    for fence in (2, 3):
        heir = await world.open()
        await heir.hold_leases("a", [BOT], ttl_s=30)
        [taken] = await claim(heir, fence)
        assert [one.message_id for one in taken.card.shown] == [0] * (fence - 2)
    assert (taken.ambiguous, taken.card.claimed_stage) == (True, Stage.START)


@conforms
async def test_a_report_does_not_overwrite_what_came_through_a_claim_whose_answer_was_lost(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1), call_row(2)], cards=[card_row(1), card_row(2)])
    [one] = await claim(store, limit=1)
    [two] = await claim(store, done=[progress(one, shown(10))])
    assert (one.card.call_id, two.card.call_id) == (1, 2)
    await plan(store, calls=[call_row(2)], absorbed={1: 2}, cards=[card_row(2, stage=Stage.DIAL)])
    report = progress(two, shown(20), actions=(action(2, message_id=20),))
    [unheard] = await claim(store, done=[report])
    assert {found.message_id for found in unheard.card.shown} == {10, 20}
    [again] = await claim(store, done=[report])
    assert {found.message_id for found in again.card.shown} == {10, 20}


@conforms
async def test_what_a_suspended_chat_does_not_get_is_decided_against(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    limit = ChatLimit(bot_id=BOT, chat_id=CHAT, until=None, reason="kicked")
    said = [await store.limit_chat(one) for one in (limit, limit)]
    said.append(await store.limit_chat(msgspec.structs.replace(limit, until=NOW + 60 * S, reason="flood")))
    assert said == [True, False, False]
    assert [(one.chat_id, one.until, one.reason) for one in await store.limits()] == [(CHAT, None, "kicked")]
    await plan(store, calls=[call_row(1)], cards=[card_row(1, stage=Stage.DIAL)])
    await plan(store, calls=[call_row(1)], cards=[card_row(1, stage=Stage.DIAL, version=9)])
    assert await skips(store) == [(1, "start", "blocked: kicked"), (1, "dial", "blocked: kicked")]
    await store.lift_limit(BOT, CHAT)
    [resumed] = await claim(store)
    assert resumed.card.stage is Stage.DIAL


@conforms
async def test_what_the_sender_decides_against_is_in_the_trace_as_a_skip(world: World) -> None:
    store = await owner(world)
    await plan(store, calls=[call_row(1)], cards=[card_row(1)])
    [taken] = await claim(store)
    skip = msgspec.structs.replace(action(1, Op.SKIP), outcome="skipped", reason="gave up: topic")
    await claim(store, done=[progress(taken, actions=(skip,))])
    assert await skips(store) == [(1, "start", "gave up: topic")]
