"""Delivery: brings one claimed card to what its chat should see, step by step, and reports what became of it.

The flow of a message is ``deliver``: draw → ``next_step`` → execute → read the outcome → again, until nothing is left to
do or Telegram wants us to wait. What each outcome means stands in callgram.telegram.outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from callgram.cards import (
    UNDRAWN,
    Delete,
    Edit,
    Follow,
    Message,
    Nothing,
    Reply,
    Search,
    Send,
    Shown,
    Stage,
    Step,
    edited,
    found,
    gone,
    next_step,
    sent,
)
from callgram.in_hand import BACK, SEARCH_PAUSE_S, Ports, Wait
from callgram.replying import Replying
from callgram.telegram import api
from callgram.telegram.outcome import Kind, Outcome, Reason
from callgram.text import catalogue
from callgram.trace import Op

__all__ = ["Delivery", "Ports", "candidates"]

MAX_STEPS = 8  # of one claim: send, delete, edit back and forth; what is left is due again at once
SETTLE_S = 10.0  # Telegram may hold a request 8 s (telegram.md §0.1): an orphan is not looked for before
MAX_PROBES = 20  # ids tried for one orphan (telegram.md §3)
NEARLY = timedelta(seconds=30)  # a send that was made so much later got a higher id
GIVE_UP_AFTER = timedelta(hours=24)  # a call that ended so long ago is news to nobody


class Delivery(Replying):
    """One claim in hand, and the steps of its texts."""

    async def deliver(self) -> None:
        """Do what is to be done now and report it. Ends with the card given back, whatever happens on the way."""
        self._take_over()
        hopeless = self._hopeless()
        if hopeless:
            self._skip(hopeless)
            self._report(Wait(None, failed=False))
            return
        message, self._plugin = await self._ports.drawing.draw(self._call, self._card.stage, self._card.chat_id)
        wait = BACK
        for n_done in range(MAX_STEPS):
            if not self._holds():
                break
            step = next_step(self._card, message, search_first=self._search_first)
            if isinstance(step, Send | Edit) and (n_done or not self._first) and self._stale():
                break
            if self._new and not isinstance(step, Nothing):
                self._report(None)  # the id of what was sent is safe before the rest is done
            again = await self._do(step)
            if again is not None:
                wait = again
                break
        self._report(wait)

    async def _do(self, step: Step) -> Wait | None:
        match step:
            case Nothing(reason):
                if reason == UNDRAWN:
                    self._skip("filtered: no plugin draws it")
                return Wait(None, failed=False)
            case Send(text):
                return await self._send(text)
            case Edit(message_id, text):
                return await self._edit(message_id, text)
            case Delete(message_ids):
                return await self._delete(message_ids)
            case Search(orphan):
                return await self._search(orphan)
            case Reply(audio):
                return self._promise(audio)
            case Follow(promise, message_id, wanted):
                return await self._follow(promise, message_id, wanted)

    def _hopeless(self) -> str:
        """Why nothing new is to be shown, ``""`` where something is. What is there already is always brought to its end."""
        ended = self._call.ended_at
        if not self._card.shown and ended and self._ports.clock() - ended > GIVE_UP_AFTER:
            return f"gave up: the call ended more than {GIVE_UP_AFTER // timedelta(hours=1)} hours ago"
        return ""

    def _take_over(self) -> None:
        """An earlier owner had this card in hand and never reported: had it no such message, its send may be an orphan."""
        stage = self._card.claimed_stage
        if not self._claim.ambiguous or stage is None:
            return
        known = [shown for shown in self._card.texts if not shown.is_orphan and shown.stage is stage]
        if known:
            if stage is not self._card.stage:  # else the edit is made again, and traced then
                self._note_lost_edit(known[-1])
            return
        unknown = msgspec.structs.replace(self._card, stage=stage)
        at = self._card.claimed_at or self._ports.clock()
        self._trace(at=at, stage=stage, op=Op.SEND, outcome=str(Kind.AMBIGUOUS), reason="in hand when its sender ended")
        orphaned = sent(unknown, Message(""), 0, at)
        self._card = msgspec.structs.replace(self._card, shown=orphaned.shown)

    # Steps: each answers None to go on, or how long to wait

    async def _send(self, message: Message) -> Wait | None:
        wait = self._budget()
        if wait:
            return wait
        now = self._ports.clock()
        outcome = await api.send_message(
            self._ports.session, self._token, self._card.chat_id, message, plain=self._plain, may_leave=self._holds
        )
        self._note(Op.SEND, outcome, outcome.message_id, message.html, now)
        if outcome.kind is Kind.AMBIGUOUS or outcome.reason is Reason.NO_ID:
            self._card = sent(self._card, message, 0, now)
            if outcome.retry_after_s:  # a server that shuts down drops what it has, executed or not (R09)
                self._close_for(outcome.retry_after_s)
            resend = self._card.stage is Stage.HANGUP and outcome.kind is Kind.AMBIGUOUS
            return self._retry() if resend else Wait(None, failed=False)
        if outcome.reason is Reason.VANISHED:
            return Wait(None, failed=False)
        if outcome.ok:
            self._card = sent(self._card, message, outcome.message_id, now)
            self._new = True
            return None
        return await self._refused(outcome)

    async def _edit(self, message_id: int, message: Message) -> Wait | None:
        wait = self._budget()
        if wait:
            return wait
        now = self._ports.clock()
        outcome = await api.edit_message(
            self._ports.session,
            self._token,
            self._card.chat_id,
            message_id,
            message,
            plain=self._plain,
            may_leave=self._holds,
        )
        self._note(Op.EDIT, outcome, message_id, message.html, now)
        if outcome.ok:
            self._card = edited(self._card, message_id, message)
            return None
        if outcome.reason in {Reason.GONE, Reason.NOT_EDITABLE}:
            self._card = gone(self._card, message_id)  # somebody deleted it: the state of the call is sent anew
            return None
        return await self._refused(outcome)

    async def _delete(self, message_ids: tuple[int, ...]) -> Wait | None:
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

    async def _close_old(self, message_id: int) -> Wait | None:
        """After 48 h a message can only be edited (R63, R64): it says that it is over, and is forgotten."""
        wait = self._budget()
        if wait:
            return wait
        text = Message(catalogue("callgram", self._locale.language)["outdated"])
        now = self._ports.clock()
        outcome = await api.edit_message(self._ports.session, self._token, self._card.chat_id, message_id, text)
        self._note(Op.EDIT, outcome, message_id, text.html, now)
        again = outcome.kind in {Kind.FLOOD, Kind.SERVER, Kind.NOT_SENT}
        return await self._refused(outcome) if again else None

    async def _search(self, orphan: Any) -> Wait | None:
        """Try the ids that nobody accounts for around the time of the lost send. Not finding proves nothing (telegram.md §3)."""
        age = (self._ports.clock() - orphan.sent_at).total_seconds()
        if age < SETTLE_S:
            return Wait(SETTLE_S - age, failed=False)
        if not self._first:  # a message sent just before, for another card, would be taken for the orphan
            return Wait(0.0, failed=False)
        # So would audio, whose id nobody knows yet.
        if self._ports.replies.under_way(self._card.bot_id, self._card.chat_id):
            return Wait(SEARCH_PAUSE_S, failed=False)
        known = await self._ports.sent_ids(self._card.bot_id, self._card.chat_id, orphan.sent_at)
        hit = None
        if not known and not any(shown.message_id > 0 for shown in self._card.shown):
            # No neighbour to look beside: it is sent again, and then the lost one is looked for.
            self._search_first = False
            return None
        # Not all of this is reported:
        own = [(shown.message_id, shown.sent_at) for shown in self._card.shown if shown.message_id > 0]
        own += self._ports.replies.sent_ids(self._card.bot_id, self._card.chat_id)
        place = (*self._card.key, orphan.sent_at)
        tried = self._ports.searched.setdefault(place, set())
        for message_id in candidates([*known, *own], orphan.sent_at):
            if message_id in tried:
                continue
            wait = self._budget()
            if wait and wait.seconds:  # others who wait for this chat go first, whatever their urgency
                return Wait(wait.seconds + SEARCH_PAUSE_S, failed=False)
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
        return Wait(0.0, failed=False) if hit else None  # its id is safe before anything is done to it

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


def candidates(known: Sequence[tuple[int, datetime]], lost_at: datetime) -> list[int]:
    """The ids that a message lost at ``lost_at`` may have: those that nobody accounts for, nearest to its time first.

    Ids and times of sends side by side are only nearly in one order, so the next neighbours are no bounds, others are.
    """
    if not known:
        return []
    taken = {message_id for message_id, _ in known}
    before = [message_id for message_id, at in known if at <= lost_at]
    near = max(before) if before else min(taken)
    # No bound by time below: where two owners died one after the other, it is the later one's end.
    low = min(taken) - MAX_PROBES
    high = min((one for one, at in known if at > lost_at + NEARLY), default=max(taken) + MAX_PROBES)
    free = (message_id for message_id in range(max(1, low), high) if message_id not in taken)
    return sorted(free, key=lambda message_id: abs(message_id - near))[:MAX_PROBES]
