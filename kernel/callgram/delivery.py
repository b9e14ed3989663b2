"""Delivery: brings one claimed card to what its chat should see, step by step, and reports what became of it.

The flow of a message is ``deliver``: draw → ``next_step`` → execute → read the outcome → again, until nothing is left to
do or Telegram wants us to wait. What each outcome means stands in callgram.telegram.outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from loguru import logger

from callgram.cards import (
    UNDRAWN,
    Delete,
    Edit,
    Message,
    Nothing,
    Search,
    Send,
    Shown,
    Stage,
    edited,
    found,
    gone,
    next_step,
    sent,
)
from callgram.context import Secret
from callgram.drawing import Drawing
from callgram.loader import Plugins
from callgram.metrics import SKIPS, count_call
from callgram.store import ChatLimit, Claim, Progress
from callgram.telegram import api
from callgram.telegram.limits import Limits
from callgram.telegram.outcome import Kind, Outcome, Reason
from callgram.text import catalogue
from callgram.trace import Action, Op

MAX_STEPS = 8  # of one claim: send, delete, edit back and forth; what is left is due again at once
SETTLE_S = 10.0  # Telegram may hold a request 8 s (telegram.md §0.1): an orphan is not looked for before
MAX_PROBES = 20  # ids tried for one orphan (telegram.md §3)
SEARCH_PAUSE_S = 4.0  # between its tries in a chat whose budget is spent
NEARLY = timedelta(seconds=30)  # a send that was made so much later got a higher id
PATIENCE_S = 1.5  # a wait for the bucket so short is waited in place
GIVE_UP_AFTER = timedelta(hours=24)  # a call that ended so long ago is news to nobody
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery works with. ``monotonic`` seconds are the clock of ``limits``, ``clock`` tells the time of day,
    ``chance`` answers 0 to 1.

    ``holds(bot, fence)`` is asked before each call: a node that was frozen must not write for another's bot. ``report``
    hands a Progress to the sender's next transaction; ``sent_ids`` answers ``[(message id, sent at)]`` of what the bot is
    known to have sent where an orphan would have got its id.
    """

    plugins: Plugins
    drawing: Drawing
    session: Any
    limits: Limits
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    chance: Callable[[], float]
    holds: Callable[[int, int], bool]
    report: Callable[[Progress], None]
    limit_chat: Callable[[ChatLimit], Awaitable[None]]
    move_chat: Callable[[int, int, int], Awaitable[None]]
    sent_ids: Callable[[int, int, datetime], Awaitable[Sequence[tuple[int, datetime]]]]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    searched: dict[tuple[str, int, int, datetime], set[int]] = msgspec.field(default_factory=dict)
    """The ids that each search has looked at, so that it goes on behind a pause. Another node begins it anew."""


class _Wait(msgspec.Struct, frozen=True):
    """Not now: give the card back and take it up again after ``seconds`` (``None``: when the planner changes it)."""

    seconds: float | None
    failed: bool = True


class Delivery:
    """One claim in hand."""

    def __init__(self, ports: Ports, claim: Claim, fence: int, token: Secret, *, first: bool = True) -> None:
        """``first``: of the cards of this chat that are in hand. What is sent before another one is not reported yet."""
        self._first = first
        self._ports, self._claim, self._fence, self._token = ports, claim, fence, token
        self._card = claim.card
        self._actions: list[Action] = []
        self._repeated = claim.ambiguous or claim.card.attempts > 0
        self._plain = self._new = False
        self._plugin = ""
        settings, self._locale = ports.plugins.reading(claim.card.enterprise)
        self._search_first = settings.ambiguous == "probe"
        self._call = ports.drawing.tell(claim.facts, self._locale.plan)

    async def deliver(self) -> None:
        """Do what is to be done now and report it. Ends with the card given back, whatever happens on the way."""
        self._take_over()
        wait = _Wait(0.0, failed=False)
        hopeless = self._hopeless()
        if hopeless:
            self._skip(hopeless)
            self._report(_Wait(None, failed=False))
            return
        message, self._plugin = await self._ports.drawing.draw(self._call, self._card.stage, self._card.chat_id)
        for _ in range(MAX_STEPS):
            if not self._holds():
                break
            step = next_step(self._card, message, search_first=self._search_first)
            if self._new and not isinstance(step, Nothing):
                self._report(None)  # the id of what was sent is safe before the rest is done
            match step:
                case Nothing(reason):
                    if reason == UNDRAWN:
                        self._skip("filtered: no plugin draws it")
                    wait = _Wait(None, failed=False)
                    break
                case Send(text):
                    again = await self._send(text)
                case Edit(message_id, text):
                    again = await self._edit(message_id, text)
                case Delete(message_ids):
                    again = await self._delete(message_ids)
                case Search(orphan):
                    again = await self._search(orphan)
            if again is not None:
                wait = again
                break
        self._report(wait)

    def _hopeless(self) -> str:
        """Why nothing new is to be shown, ``""`` where something is. What is there already is always brought to its end."""
        ended = self._call.ended_at
        if not self._card.shown and ended and self._ports.clock() - ended > GIVE_UP_AFTER:
            return f"gave up: the call ended more than {GIVE_UP_AFTER // timedelta(hours=1)} hours ago"
        return ""

    def _holds(self) -> bool:
        return self._ports.holds(self._card.bot_id, self._fence)

    def __repr__(self) -> str:
        return f"call {self._card.call_id}"

    def give_back(self) -> None:
        """After a bug of ours: report what was done, and let the card be taken up again later."""
        self._report(self._retry())

    def _take_over(self) -> None:
        """An earlier owner had this card in hand and never reported: had it no such message, its send may be an orphan."""
        stage = self._card.claimed_stage
        if not self._claim.ambiguous or stage is None:
            return
        known = [shown for shown in self._card.shown if not shown.is_orphan and shown.stage is stage]
        if known:
            if stage is not self._card.stage:  # else the edit is made again, and traced then
                self._note_lost_edit(known[-1])
            return
        unknown = msgspec.structs.replace(self._card, stage=stage)
        orphaned = sent(unknown, Message(""), 0, self._card.claimed_at or self._ports.clock())
        self._card = msgspec.structs.replace(self._card, shown=orphaned.shown)

    # Steps: each answers None to go on, or how long to wait

    async def _send(self, message: Message) -> _Wait | None:
        wait = await self._budget()
        if wait:
            return wait
        now = self._ports.clock()
        outcome = await api.send_message(
            self._ports.session, self._token, self._card.chat_id, message, plain=self._plain
        )
        self._note(Op.SEND, outcome, outcome.message_id, message.html, now)
        if outcome.kind is Kind.AMBIGUOUS or outcome.reason is Reason.NO_ID:
            self._card = sent(self._card, message, 0, now)
            if outcome.retry_after_s:  # a server that shuts down drops what it has, executed or not (R09)
                self._close_for(outcome.retry_after_s)
            resend = self._card.stage is Stage.HANGUP and outcome.kind is Kind.AMBIGUOUS
            return self._retry() if resend else _Wait(None, failed=False)
        if outcome.reason is Reason.VANISHED:
            return _Wait(None, failed=False)
        if outcome.ok:
            self._card = sent(self._card, message, outcome.message_id, now)
            self._new = True
            return None
        return await self._refused(outcome)

    async def _edit(self, message_id: int, message: Message) -> _Wait | None:
        wait = await self._budget()
        if wait:
            return wait
        now = self._ports.clock()
        outcome = await api.edit_message(
            self._ports.session, self._token, self._card.chat_id, message_id, message, plain=self._plain
        )
        self._note(Op.EDIT, outcome, message_id, message.html, now)
        if outcome.ok:
            self._card = edited(self._card, message_id, message)
            return None
        if outcome.reason in {Reason.GONE, Reason.NOT_EDITABLE}:
            self._card = gone(self._card, message_id)  # somebody deleted it: the state of the call is sent anew
            return None
        return await self._refused(outcome)

    async def _delete(self, message_ids: tuple[int, ...]) -> _Wait | None:
        now = self._ports.clock()
        stages = {shown.message_id: shown.stage for shown in self._card.shown}
        outcomes = await api.delete_messages(self._ports.session, self._token, self._card.chat_id, message_ids)
        failed: Outcome | None = None
        for message_id, outcome in outcomes.items():
            self._note(Op.DELETE, outcome, message_id, "", now, stage=stages.get(message_id))
            if outcome.reason is Reason.TOO_OLD:
                wait = await self._close_old(message_id)
                if wait:
                    return wait
            elif not outcome.ok:
                failed = outcome
                continue
            self._card = gone(self._card, message_id)
        return await self._refused(failed) if failed else None

    async def _close_old(self, message_id: int) -> _Wait | None:
        """After 48 h a message can only be edited (R63, R64): it says that it is over, and is forgotten."""
        wait = await self._budget()
        if wait:
            return wait
        text = Message(catalogue("callgram", self._locale.language)["outdated"])
        now = self._ports.clock()
        outcome = await api.edit_message(self._ports.session, self._token, self._card.chat_id, message_id, text)
        self._note(Op.EDIT, outcome, message_id, text.html, now)
        again = outcome.kind in {Kind.FLOOD, Kind.SERVER, Kind.NOT_SENT}
        return await self._refused(outcome) if again else None

    async def _search(self, orphan: Any) -> _Wait | None:
        """Try the ids that nobody accounts for around the time of the lost send. Not finding proves nothing (telegram.md §3)."""
        age = (self._ports.clock() - orphan.sent_at).total_seconds()
        if age < SETTLE_S:
            return _Wait(SETTLE_S - age, failed=False)
        if not self._first:  # a message sent just before, for another card, would be taken for the orphan
            return _Wait(0.0, failed=False)
        known = await self._ports.sent_ids(self._card.bot_id, self._card.chat_id, orphan.sent_at)
        hit = None
        if not known and not any(shown.message_id for shown in self._card.shown):
            self._search_first = (
                False  # no neighbour to look beside: it is sent again, and then the lost one is looked for
            )
            return None
        own = [
            (shown.message_id, shown.sent_at) for shown in self._card.shown if not shown.is_orphan
        ]  # not all reported
        place = (*self._card.key, orphan.sent_at)
        tried = self._ports.searched.setdefault(place, set())
        for message_id in candidates([*known, *own], orphan.sent_at):
            if message_id in tried:
                continue
            wait = await self._budget(patience_s=0.0)
            if wait and wait.seconds:  # others who wait for this chat go first, whatever their urgency
                return _Wait(wait.seconds + SEARCH_PAUSE_S, failed=False)
            if wait:
                return wait
            outcome = await api.edit_reply_markup(self._ports.session, self._token, self._card.chat_id, message_id)
            if outcome.kind in {Kind.FLOOD, Kind.SERVER, Kind.NOT_SENT}:
                return await self._refused(outcome)
            tried.add(message_id)
            if outcome.ok:
                hit = message_id
                self._note(Op.SEND, outcome, message_id, "", orphan.sent_at, found=True, stage=orphan.stage)
                break
        self._ports.searched.pop(place, None)
        self._card = found(self._card, orphan, hit)
        return _Wait(0.0, failed=False) if hit else None  # its id is safe before anything is done to it

    async def _budget(self, patience_s: float = PATIENCE_S) -> _Wait | None:
        """Take one call out of the chat's and the bot's bucket, waiting in place for a moment, else later."""
        bot, chat, limits = self._card.bot_id, self._card.chat_id, self._ports.limits
        now = self._ports.monotonic()
        ready = limits.ready_at(bot, chat, now)
        patience = now + patience_s
        while now < ready <= patience:
            await self._ports.sleep(ready - now)
            now = self._ports.monotonic()
            ready = limits.ready_at(bot, chat, now)
        if ready > now:
            return _Wait(ready - now, failed=False)
        if not self._holds():
            return _Wait(0.0, failed=False)
        limits.take(bot, chat, now)
        return None

    async def _refused(self, outcome: Outcome) -> _Wait | None:
        """What an unsuccessful outcome asks for: a wait, a plainer text, or to give up on the chat or the bot."""
        bot, chat = self._card.bot_id, self._card.chat_id
        if outcome.kind is Kind.FLOOD:
            closed_s = {chat: outcome.retry_after_s, 0: self._close_for(outcome.retry_after_s)}
            for place, seconds in closed_s.items():  # for whoever takes the bot over
                if seconds > 0:
                    until = self._ports.clock() + timedelta(seconds=seconds)
                    await self._ports.limit_chat(ChatLimit(bot_id=bot, chat_id=place, until=until, reason="flood"))
            return _Wait(outcome.retry_after_s)
        if outcome.kind is Kind.MIGRATE:
            await self._ports.move_chat(bot, chat, outcome.migrate_to)
            return _Wait(None)
        if outcome.kind in {Kind.SERVER, Kind.NOT_SENT, Kind.AMBIGUOUS}:
            return self._retry()
        if outcome.reason is Reason.CONTENT and not self._plain:
            self._plain = True
            return None
        if outcome.reason in {Reason.CHAT_DEAD, Reason.TOKEN}:
            return await self._suspend(0 if outcome.reason is Reason.TOKEN else chat, outcome.description)
        self._skip(f"gave up: {outcome.reason}")
        return _Wait(None)

    async def _suspend(self, chat: int, reason: str) -> _Wait:
        """Nobody writes to the chat (0: for the bot) until a person resumes it. The card stays due, for that moment."""
        bot = self._card.bot_id
        if chat == 0:
            logger.error("bot {} is suspended: {}; see callgram subscriber list", bot, reason)
        await self._ports.limit_chat(ChatLimit(bot_id=bot, chat_id=chat, until=None, reason=reason))
        self._skip(f"blocked: {reason}")
        return _Wait(0.0, failed=False)

    def _skip(self, reason: str) -> None:
        """Why the stage is not in the chat, for whoever asks."""
        SKIPS.labels(reason.partition(":")[0]).inc()
        self._trace(at=self._ports.clock(), stage=self._card.stage, op=Op.SKIP, outcome="skipped", reason=reason)

    def _close_for(self, seconds: float) -> float:
        """429: the chat takes nothing for so long; a little longer, so that not all chats of a bot come back at once.
        Answers for how long the whole bot takes nothing."""
        bot, chat, jitter = self._card.bot_id, self._card.chat_id, self._ports.chance() / 2
        return self._ports.limits.flood(bot, chat, seconds, self._ports.monotonic(), jitter_s=jitter)

    def _retry(self) -> _Wait:
        return _Wait(BACKOFF_S[min(self._card.attempts, len(BACKOFF_S) - 1)])

    # Reports

    def _note(
        self,
        op: Op,
        outcome: Outcome,
        message_id: int,
        text: str,
        at: datetime,
        *,
        found: bool = False,
        stage: Stage | None = None,
    ) -> None:
        count_call(op, outcome.kind, outcome.took_s)
        said, reason = str(outcome.kind), f"{outcome.reason}: {outcome.description}" if outcome.description else ""
        if outcome.ok and outcome.reason in {Reason.DONE_ALREADY, Reason.GONE} and not found:
            # Done by a try whose answer was lost, then it is ours and executed; else somebody else was faster.
            said = "ok" if self._repeated else str(outcome.reason)
        elif found:
            reason = "found: its answer had been lost"
        self._trace(
            at=at,
            stage=stage or self._card.stage,
            op=op,
            message_id=message_id,
            text=text,
            outcome=said,
            reason=reason,
            took_s=outcome.took_s,
            plugin=self._plugin if text else "",
            retry_after_s=outcome.retry_after_s,
        )

    def _note_lost_edit(self, shown: Shown) -> None:
        """The earlier owner may have edited this message; nobody will ask again, the call has moved on."""
        self._trace(
            at=self._card.claimed_at or self._ports.clock(),
            stage=shown.stage,
            op=Op.EDIT,
            message_id=shown.message_id,
            outcome=str(Kind.AMBIGUOUS),
            reason="in hand when its sender ended; an answer was lost",
        )

    def _trace(self, **fields: Any) -> None:
        """Add to the trace what is said of this card, with the next report."""
        card = self._card
        self._actions.append(
            Action(
                enterprise=card.enterprise,
                call_id=card.call_id,
                unique_id=self._call.unique_id,
                chat_id=card.chat_id,
                bot_id=card.bot_id,
                **fields,
            )
        )

    def _report(self, wait: _Wait | None) -> None:
        """Hand over what was done so far; ``None`` keeps the card in hand."""
        retry_at = None
        if wait is not None and wait.seconds is not None:
            retry_at = self._ports.clock() + timedelta(seconds=wait.seconds)
        actions, self._actions, self._new = tuple(self._actions), [], False
        card = self._card
        self._ports.report(
            Progress(
                enterprise=card.enterprise,
                call_id=card.call_id,
                chat_id=card.chat_id,
                bot_id=card.bot_id,
                fence=self._fence,
                version=card.version,
                shown=card.shown,
                seen=tuple(shown.message_id for shown in self._claim.card.shown),
                actions=actions,
                released=wait is not None,
                retry_at=retry_at,
                attempts=card.attempts + 1 if wait and wait.failed and wait.seconds is not None else 0,
            )
        )


def candidates(known: Sequence[tuple[int, datetime]], lost_at: datetime) -> list[int]:
    """The ids that a message lost at ``lost_at`` may have: those that nobody accounts for, nearest to its time first.

    Ids and times of sends side by side are only nearly in one order, so the next neighbours are no bounds, others are.
    """
    if not known:
        return []
    taken = {message_id for message_id, _ in known}
    before = [message_id for message_id, at in known if at <= lost_at]
    near = max(before) if before else min(taken)
    low = (
        min(taken) - MAX_PROBES
    )  # no bound by time: where two owners died one after the other, it is the later one's end
    high = min((one for one, at in known if at > lost_at + NEARLY), default=max(taken) + MAX_PROBES)
    free = (message_id for message_id in range(max(1, low), high) if message_id not in taken)
    return sorted(free, key=lambda message_id: abs(message_id - near))[:MAX_PROBES]
