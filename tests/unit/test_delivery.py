"""What each answer of Telegram leads to: the action table of the delivery, row by row, against the simulator."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from loguru import logger

from callgram import Stage
from callgram.cards import Urgency
from callgram.cli import admin
from callgram.context import Secret
from callgram.store import ChatLimit
from callgram.telegram.limits import LimitSettings
from callgram.trace import Op
from callgram_simulator.chats import ChatState
from callgram_simulator.settings import FloodSettings

from .sending_rig import CHAT, GROUP, Rig, rig


def on_rig(*chats: int, **settings: Any) -> Callable[[Callable[[Rig], Awaitable[None]]], Callable[[], None]]:
    def decorate(test: Callable[[Rig], Awaitable[None]]) -> Callable[[], None]:
        @functools.wraps(test)
        def run() -> None:
            async def play() -> None:
                async with rig(chats or (CHAT,), **settings) as made:
                    await test(made)

            asyncio.run(play())

        del run.__wrapped__  # type: ignore[attr-defined] # pytest would look for fixtures in it
        return run

    return decorate


async def limits_of(made: Rig) -> list[ChatLimit]:
    return await made.store.limits()


# done already, gone, not editable


@on_rig()
async def test_an_edit_whose_answer_was_lost_is_repeated_and_counts_once(made: Rig) -> None:
    call = await made.plan(Stage.DIAL, draws="150")
    await made.shows("150")
    made.fail("execute_then_drop", "editMessageText")
    await made.plan(Stage.DIAL, call, draws="151")
    await made.until(lambda: made.outcomes(Op.EDIT) == ["server", "ok"])
    assert made.truth() == [("send", "150"), ("edit", "151")]


@on_rig()
async def test_a_message_that_somebody_deleted_is_sent_anew(made: Rig) -> None:
    call = await made.plan(Stage.DIAL, draws="150")
    await made.shows("150")
    [message_id] = made.dialog().records
    made.simulator.state.delete(made.dialog(), message_id, by_bot=False)
    await made.plan(Stage.DIAL, call, draws="151")
    await made.shows("151")


@on_rig()
async def test_a_delete_whose_answer_was_lost_is_done(made: Rig) -> None:
    call = await made.plan(Stage.DIAL)
    await made.shows(f"{call} dial")
    made.fail("execute_then_drop", "deleteMessage")
    await made.plan(Stage.HANGUP, call)
    await made.until(lambda: made.outcomes(Op.DELETE) == ["server", "ok"])
    assert [kind for kind, _ in made.truth()] == ["send", "send", "delete"]


@on_rig()
async def test_a_message_that_cannot_be_edited_is_replaced_by_a_new_one(made: Rig) -> None:
    call = await made.plan(Stage.DIAL, draws="150")
    await made.shows("150")
    [record] = made.dialog().records.values()
    record.bot_id = 999
    await made.plan(Stage.DIAL, call, draws="151")
    await made.until(lambda: made.texts() == ["150", "151"])


# too old


@on_rig()
async def test_after_48_hours_a_message_is_edited_to_its_last_words(made: Rig) -> None:
    call = await made.plan(Stage.DIAL)
    await made.shows(f"{call} dial")
    made.simulator.state.clock.move(49 * 3600)
    await made.plan(Stage.HANGUP, call)
    await made.until(lambda: len(made.texts()) == 2 and made.texts()[0] != f"{call} dial")
    assert made.texts()[1] == f"{call} hangup"


@on_rig()
async def test_one_message_that_is_too_old_does_not_keep_the_others(made: Rig) -> None:
    call = await made.plan(Stage.START)
    await made.shows(f"{call} start")
    made.fail("502", "deleteMessage", times=3)
    await made.plan(Stage.DIAL, call)
    await made.until(lambda: len(made.texts()) == 2)
    old = min(made.dialog().records)
    made.simulator.state.clock.move(47 * 3600)
    made.simulator.state.faults.clear()
    record = made.dialog().records[old]
    record.message = type(record.message)(
        **{name: getattr(record.message, name) for name in record.message.__struct_fields__} | {"date": 0}
    )
    await made.plan(Stage.HANGUP, call)
    await made.until(lambda: f"{call} dial" not in made.texts() and f"{call} start" not in made.texts())
    assert made.texts()[-1] == f"{call} hangup"


# content


@pytest.mark.parametrize(
    ("drawn", "shown"),
    [
        pytest.param("<b>never closed", "never closed", id="refused HTML"),
        pytest.param("<blink>a &lt; b</blink>", "a < b", id="an unknown tag"),
        pytest.param("я" * 5000, "я" * 4095 + "…", id="too long, cut by code points"),
        pytest.param("😀" * 4097, "😀" * 4095 + "…", id="characters of two UTF-16 units"),
    ],
)
def test_what_telegram_refuses_to_show_arrives_as_plain_text(drawn: str, shown: str) -> None:
    async def play() -> None:
        async with rig() as made:
            await made.plan(Stage.HANGUP, draws=drawn)
            await made.shows(shown)

    asyncio.run(play())


@on_rig()
async def test_an_edit_that_telegram_refuses_to_show_arrives_as_plain_text(made: Rig) -> None:
    call = await made.plan(Stage.DIAL, draws="150")
    await made.shows("150")
    await made.plan(Stage.DIAL, call, draws="<b>151")
    await made.shows("151")
    assert made.outcomes(Op.EDIT) == ["rejected", "ok"]


# dead chats


@pytest.mark.parametrize(
    "state",
    [
        ChatState.BLOCKED,
        ChatState.DEACTIVATED,
        ChatState.KICKED,
        ChatState.LEFT,
        ChatState.DELETED,
        ChatState.NO_TEXT_RIGHT,
        ChatState.NO_POST_RIGHT,
        ChatState.NO_WRITE_ACCESS,
        ChatState.NOT_STARTED,
    ],
)
def test_a_dead_chat_is_suspended_with_the_reason_and_resumed_on_request(
    state: ChatState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with rig((CHAT, GROUP)) as made:
            made.dialog().state = state
            call = await made.plan(Stage.HANGUP)
            await made.until(lambda: made.texts(GROUP))
            [limit] = await made.until_limits()
            assert (limit.chat_id, limit.until) == (CHAT, None)
            assert limit.reason
            assert made.texts(GROUP) == [f"{call} hangup"], "the other chat is none the worse for it"
            other = await made.plan(Stage.HANGUP)
            await made.until(lambda: made.texts(GROUP)[1:])
            assert made.outcomes(Op.SEND).count("rejected") == 1, "it is not tried again"
            said = [one.call_id for one in made.actions if one.reason == f"blocked: {limit.reason}"]
            assert sorted(said) == [call, other], "a query explains both"
            monkeypatch.setattr(admin, "with_store", lambda work: made.now(work(made.store)))
            shown = CliRunner().invoke(admin.subscriber, ["list"]).output
            assert "suspended" in shown
            made.dialog().state = ChatState.READY
            assert "resumed" in CliRunner().invoke(admin.subscriber, ["resume", "0367", str(CHAT)]).output
            made.sender.wake()
            await made.until(lambda: sorted(made.texts()) == sorted([f"{call} hangup", f"{other} hangup"]))

    asyncio.run(play())


@on_rig(GROUP)
async def test_a_chat_that_dies_with_a_message_in_it_is_suspended_by_the_edit_and_brought_up_to_date_later(made: Rig) -> None:
    call = await made.plan(Stage.DIAL, draws="150")
    await made.shows("150", chat=GROUP)
    made.dialog(GROUP).state = ChatState.KICKED
    await made.plan(Stage.DIAL, call, draws="151")
    [limit] = await made.until_limits()
    assert (limit.chat_id, limit.until, made.outcomes(Op.EDIT)) == (GROUP, None, ["rejected"])
    made.dialog(GROUP).state = ChatState.READY
    await made.store.lift_limit(700, GROUP)
    made.sender.wake()
    await made.shows("151", chat=GROUP)


@on_rig(-5041, -5042)
async def test_a_group_that_became_a_supergroup_is_rewritten_everywhere(made: Rig) -> None:
    made.dialog(-5041).state, made.dialog(-5041).migrate_to = ChatState.UPGRADED, GROUP
    call = await made.plan(Stage.HANGUP)
    await made.until(lambda: made.texts(GROUP) == [f"{call} hangup"])
    directory = await made.store.directory()
    assert sorted(chat.id for chat in directory.chats_of("0367")) == sorted([GROUP, -5042])
    assert made.texts(-5042) == [f"{call} hangup"]


@on_rig()
async def test_a_closed_topic_gives_the_card_up_and_says_why(made: Rig) -> None:
    made.dialog().state, made.dialog().refusal = ChatState.REFUSING, "TOPIC_CLOSED"
    await made.plan(Stage.HANGUP)
    await made.until(lambda: made.reasons() == ["gave up: topic"])


# the token


@contextmanager
def listening(level: str) -> Iterator[list[str]]:
    said: list[str] = []
    sink = logger.add(said.append, level=level)
    yield said
    logger.remove(sink)


@on_rig(CHAT, GROUP, 43, 44)
async def test_a_revoked_token_suspends_the_bot_loudly_and_once(made: Rig) -> None:
    with listening("ERROR") as said:
        made.simulator.state.bot(700).token = "700:other"
        made.simulator.state.change_settings(any_token=False)
        await made.plan(Stage.HANGUP)
        [limit] = await made.until_limits()
        await made.until(made.idle)
    assert len(made.outcomes(Op.SEND)) > 1, "several were in flight"
    assert [line for line in said if "bot 700 is suspended" in line] == said
    assert len(said) == 1
    assert (limit.chat_id, limit.until) == (0, None)
    assert not any("700:x" in line for line in said)
    n_tries = len(made.outcomes(Op.SEND))
    await made.plan(Stage.HANGUP)
    await made.until(lambda: sum("blocked" in reason for reason in made.reasons()) >= 4 or len(made.reasons()) >= 3)
    assert len(made.outcomes(Op.SEND)) == n_tries


@on_rig(CHAT)
async def test_a_token_that_was_replaced_while_it_was_in_use_suspends_nobody(made: Rig) -> None:
    made.simulator.state.bot(700).token = "700:new"
    made.simulator.state.change_settings(any_token=False)
    ask = made.session.call

    async def replaced(*given: Any, **how: Any) -> Any:
        known = made.directory.enterprises["0367"]
        await made.store.put_enterprise(msgspec.structs.replace(known, bot_token=Secret("700:new")))
        made.directory = await made.store.directory()
        return await ask(*given, **how)

    made.session.call = replaced
    call = await made.plan(Stage.HANGUP)
    await made.shows(f"{call} hangup")
    assert made.outcomes(Op.SEND) == ["rejected", "ok"]
    assert await made.store.limits() == []


@on_rig(CHAT, GROUP)
async def test_the_log_says_once_that_telegram_is_not_well(made: Rig) -> None:
    with listening("WARNING") as said:
        for _ in range(2):
            made.fail("502", "sendMessage")
        call = await made.plan(Stage.HANGUP)
        await made.until(lambda: made.texts() and made.texts(GROUP))
    assert len(said) == 1
    assert "Telegram: ambiguous of a send" in said[0]
    assert made.texts() == [f"{call} hangup"]


@on_rig(CHAT)
async def test_two_processes_of_one_name_are_told_of_each_other(made: Rig) -> None:
    await made.sender.renew()
    with listening("ERROR") as said:
        await made.sender.renew()
        await made.store.another_process().hold_leases("rig", [700], ttl_s=6)
        await made.sender.renew()
    assert len(said) == 1
    assert "CALLGRAM_NODE" in said[0]


# flood

FULL = FloodSettings(private_burst=1, private_per_s=0.5, held_s=0.0)


@on_rig(41, 42, flood=FULL)
async def test_429_delays_one_chat_and_loses_nothing(made: Rig) -> None:
    first = await made.plan(Stage.HANGUP)
    await made.until(lambda: made.texts(41) and made.texts(42))
    made.simulator.state.flood._chats.clear()
    made.simulator.state.flood._bucket(made.dialog(41), time.time(), 1).tokens = 0.0
    began = time.monotonic()
    second = await made.plan(Stage.HANGUP)
    await made.until(lambda: made.texts(42) == [f"{first} hangup", f"{second} hangup"])
    assert time.monotonic() - began < 1.0, "the other chat does not wait"
    await made.until(lambda: made.texts(41) == [f"{first} hangup", f"{second} hangup"])
    assert "flood" in made.outcomes(Op.SEND)


@on_rig(41, 42, 43, flood=FULL)
async def test_two_chats_refused_within_a_second_close_the_bot(made: Rig) -> None:
    await made.plan(Stage.HANGUP)
    await made.until(lambda: all(made.texts(chat) for chat in (41, 42, 43)))
    await made.plan(Stage.HANGUP)
    await made.until(lambda: made.outcomes(Op.SEND).count("flood") >= 2)
    assert (700, 0) in made.limits.blocked(time.monotonic())
    assert (700, 0) in made.store._db.limits, "who takes the bot over knows it, too"
    await made.until(lambda: all(len(made.texts(chat)) == 2 for chat in (41, 42, 43)))


# sends that may have happened


@on_rig()
async def test_what_never_left_is_sent_again(made: Rig) -> None:
    api = made.session.api
    made.session.api = type(api).from_base("http://127.0.0.1:1")
    call = await made.plan(Stage.DIAL)
    await made.until(lambda: "not_sent" in made.outcomes(Op.SEND))
    made.session.api = api
    await made.shows(f"{call} dial")
    assert len(made.truth()) == 1


@pytest.mark.parametrize("fault", ["execute_then_drop", "drop_before", "502", "truncated", "500_after", "429_5"])
def test_a_passing_stage_that_may_be_there_is_folded_into_the_next(fault: str) -> None:
    async def play() -> None:
        async with rig() as made:
            made.fail(fault, "sendMessage")
            call = await made.plan(Stage.DIAL)
            await made.until(lambda: made.outcomes(Op.SEND) == ["ambiguous"])
            await made.plan(Stage.DIAL, call, draws="changed")
            await made.until(made.idle)
            assert made.outcomes(Op.SEND) == ["ambiguous"], "it is not sent twice"
            if fault == "429_5":
                return  # the chat is closed for 5 s, as the server asked
            await made.plan(Stage.HANGUP, call, draws="ended")
            await made.until(lambda: "ended" in made.texts())

    asyncio.run(play())


@pytest.mark.parametrize("policy", ["resend", "probe"])
@pytest.mark.parametrize("executed", [True, False])
def test_a_final_message_that_may_be_there(policy: str, executed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callgram.delivery.SETTLE_S", 0.8)

    async def play() -> None:
        async with rig(ambiguous=policy) as made:
            first = await made.plan(Stage.HANGUP)
            await made.shows(f"{first} hangup")
            made.fail("execute_then_drop" if executed else "drop_before", "sendMessage")
            call = await made.plan(Stage.HANGUP)
            await made.until(lambda: "ambiguous" in made.outcomes(Op.SEND))
            await made.until(lambda: all(not stored.card.orphans for stored in made.store._db.cards.values()))
            await made.shows(f"{first} hangup", f"{call} hangup")
            n_sends = sum(text == f"{call} hangup" for kind, text in made.truth() if kind == "send")
            assert n_sends == (2 if policy == "resend" and executed else 1)
            found = [one for one in made.actions if one.reason.startswith("found")]
            assert len(found) == executed, "the trace says what it was"

    asyncio.run(play())


@on_rig()
async def test_a_message_that_was_deleted_at_once_is_not_sent_again(made: Rig) -> None:
    made.fail("deleted_at_once", "sendMessage")
    await made.plan(Stage.HANGUP)
    await made.until(lambda: made.actions and made.idle())
    assert made.texts() == []
    assert len(made.outcomes(Op.SEND)) == 1


# decisions


@on_rig()
async def test_a_stage_that_nobody_draws_is_filtered(made: Rig) -> None:
    await made.plan(Stage.HANGUP, draws=None)
    await made.until(lambda: made.reasons() == ["filtered: no plugin draws it"])


@on_rig()
async def test_a_call_that_ended_a_day_ago_is_given_up(made: Rig) -> None:
    await made.plan(Stage.HANGUP, ended=timedelta(hours=25))
    await made.until(lambda: made.reasons() == ["gave up: the call ended more than 24 hours ago"])
    assert made.texts() == []


# freshness

SLOW = LimitSettings(private_per_s=2.0, private_burst=1, group_per_min=60, group_burst=1, bot_per_s=30)


@on_rig(limits=SLOW)
async def test_a_full_bucket_lets_the_newest_state_of_the_most_urgent_call_go_first(made: Rig) -> None:
    await made.plan(Stage.HANGUP, urgency=Urgency.REST)
    await made.until(made.texts)
    rest = await made.plan(Stage.HANGUP, urgency=Urgency.REST)
    live = await made.plan(Stage.DIAL, urgency=Urgency.LIVE)
    missed = await made.plan(Stage.HANGUP, urgency=Urgency.MISSED)
    await made.plan(Stage.BRIDGE, live, urgency=Urgency.LIVE)
    await made.until(lambda: len(made.truth()) >= 4)
    assert [text for _, text in made.truth()[1:]] == [f"{missed} hangup", f"{live} bridge", f"{rest} hangup"]


@on_rig(limits=SLOW)
async def test_of_calls_that_are_as_urgent_the_oldest_goes_first(made: Rig) -> None:
    calls = [await made.plan(Stage.HANGUP, urgency=Urgency.REST) for _ in range(4)]
    await made.until(lambda: len(made.truth()) == 4)
    assert [text for _, text in made.truth()] == [f"{call} hangup" for call in calls]


MANY = tuple(range(1000, 1012))


@on_rig(*MANY, limits=LimitSettings(bot_per_s=4))
async def test_a_stage_that_is_overtaken_while_it_waits_for_the_bot_is_never_sent(made: Rig) -> None:
    call = await made.plan(Stage.DIAL)
    await made.until(lambda: len(made.simulator.state.truth) == 4)
    await made.plan(Stage.HANGUP, call)
    await made.until(lambda: all(made.texts(chat) == [f"{call} hangup"] for chat in MANY))
    n_dials = sum(text == f"{call} dial" for chat in MANY for kind, text in made.truth(chat) if kind == "send")
    assert n_dials == 4


@on_rig(limits=SLOW)
async def test_what_is_planned_as_the_bucket_opens_does_not_go_before_what_is_more_urgent(made: Rig) -> None:
    await made.plan(Stage.HANGUP, urgency=Urgency.REST)
    await made.until(lambda: made.texts() and made.idle())
    missed = await made.plan(Stage.HANGUP, urgency=Urgency.MISSED)
    while made.limits.ready_at(700, CHAT, time.monotonic()) > time.monotonic():
        time.sleep(0.01)  # noqa: ASYNC251 - the bucket opens, and the sender does not get to see it
    live = await made.plan(Stage.DIAL)
    await made.until(lambda: len(made.truth()) == 3)
    assert [text for _, text in made.truth()[1:]] == [f"{missed} hangup", f"{live} dial"]


@on_rig(limits=LimitSettings(private_per_s=0.05, private_burst=2))
async def test_deletes_do_not_wait_for_the_bucket(made: Rig) -> None:
    call = await made.plan(Stage.DIAL)
    await made.shows(f"{call} dial")
    began = time.monotonic()
    await made.plan(Stage.HANGUP, call)
    await made.shows(f"{call} hangup")
    assert time.monotonic() - began < 2.0


@on_rig(*range(1000, 1060), others={"0400": (55,)}, limits=LimitSettings(bot_per_s=5))
async def test_one_enterprises_flood_does_not_delay_another(made: Rig) -> None:
    for _ in range(3):
        await made.plan(Stage.HANGUP)
    began = time.monotonic()
    await made.plan(Stage.HANGUP, number="0400")
    await made.until(lambda: made.texts(55, 701))
    assert time.monotonic() - began < 1.0
