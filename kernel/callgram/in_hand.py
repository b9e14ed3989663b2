"""In hand: one claimed card, what a delivery does it with, and how it reports. What is shared by all its steps.

Every step answers ``None`` to go on, or a ``Wait``. The budgets, what an unsuccessful outcome leads to, the trace and the
report to the sender are here; the steps of texts are in callgram.delivery, those of audio in callgram.replying.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Any

import msgspec
from loguru import logger

from callgram.cards import Stage
from callgram.context import Secret
from callgram.drawing import Drawing
from callgram.loader import Plugins
from callgram.metrics import SKIPS, count_call
from callgram.replies import Replies
from callgram.store import ChatLimit, Claim, Progress
from callgram.telegram.limits import Limits
from callgram.telegram.outcome import Kind, Outcome, Reason
from callgram.trace import Action, Op

SEARCH_PAUSE_S = 4.0  # of what texts go before, where the chat's budget is spent
STALE_S = 0.25  # a card that waited so long in hand, for an answer or behind another one, may have changed: it is claimed anew
UNWELL = frozenset({Kind.SERVER, Kind.NOT_SENT, Kind.AMBIGUOUS})
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Trouble:
    """Says in the log what goes wrong with Telegram: each thing once a minute, not once for each card."""

    EVERY_S = 60.0

    def __init__(self) -> None:
        self._said: dict[object, float] = {}

    def say(self, level: str, key: object, now: float, message: str, *about: object) -> None:
        """``now`` is monotonic seconds. What has the same ``key`` is the same thing."""
        if now - self._said.get(key, -inf) >= self.EVERY_S:
            self._said[key] = now
            logger.log(level, message, *about)


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery works with. ``monotonic`` seconds are the clock of ``limits``, ``clock`` tells the time of day,
    ``chance`` answers 0 to 1.

    ``holds(bot, fence)`` is asked before each call: a node that was frozen must not write for another's bot. ``token_of`` a
    bot is the token that it has now. ``report``
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
    token_of: Callable[[int], Secret | None]
    report: Callable[[Progress], None]
    limit_chat: Callable[[ChatLimit], Awaitable[bool]]
    move_chat: Callable[[int, int, int], Awaitable[None]]
    sent_ids: Callable[[int, int, datetime], Awaitable[Sequence[tuple[int, datetime]]]]
    replies: Replies = msgspec.field(default_factory=Replies)
    trouble: Trouble = msgspec.field(default_factory=Trouble)
    searched: dict[tuple[str, int, int, datetime], set[int]] = msgspec.field(default_factory=dict)
    """The ids that each search has looked at, so that it goes on behind a pause. Another node begins it anew."""


class Wait(msgspec.Struct, frozen=True):
    """Not now: give the card back and take it up again after ``seconds`` (``None``: when the planner changes it). ``goes_on``:
    what waits has not succeeded yet, nor failed again. ``in_place``: it keeps its turn; the limits say when that is."""

    seconds: float | None
    failed: bool = True
    goes_on: bool = False
    in_place: bool = False


BACK = Wait(0.0, failed=False, goes_on=True, in_place=True)


class Hand:
    """One claim in hand. It never waits there: what waits is given back, where the planner can still change it."""

    def __init__(self, ports: Ports, claim: Claim, fence: int, token: Secret, *, first: bool = True) -> None:
        """``first``: of the cards of this chat that are in hand. What is sent before another one is not reported yet."""
        self._first, self._since = first, ports.monotonic()
        self._ports, self._claim, self._fence, self._token = ports, claim, fence, token
        self._card = claim.card
        self._actions: list[Action] = []
        self._repeated = claim.ambiguous or claim.card.attempts > 0
        self._plain = self._new = False
        self._plugin = ""
        settings, self._locale = ports.plugins.reading(claim.card.enterprise)
        self._search_first = settings.ambiguous == "probe"
        self._call = ports.drawing.tell(claim.facts, self._locale.plan)

    def _holds(self) -> bool:
        return self._ports.holds(self._card.bot_id, self._fence)

    def _stale(self) -> bool:
        """What was refused as HTML goes on as it is: it would be refused again."""
        return not self._plain and self._ports.monotonic() - self._since > STALE_S

    def __repr__(self) -> str:
        return f"call {self._card.call_id}"

    def give_back(self) -> None:
        """After a bug of ours: report what was done, and let the card be taken up again later."""
        self._report(self._retry())

    def _budget(self) -> Wait | None:
        """Take one call out of the chat's and the bot's bucket, or wait until they have one."""
        bot, chat, limits = self._card.bot_id, self._card.chat_id, self._ports.limits
        now = self._ports.monotonic()
        ready = limits.ready_at(bot, chat, now)
        if ready > now:
            return msgspec.structs.replace(BACK, seconds=ready - now)
        if not self._holds():
            return BACK
        limits.take(bot, chat, now)
        return None

    async def _refused(self, outcome: Outcome) -> Wait | None:
        """What an unsuccessful outcome asks for: a wait, a plainer text, or to give up on the chat or the bot."""
        bot, chat = self._card.bot_id, self._card.chat_id
        if outcome.kind is Kind.FLOOD:
            await self._flood(outcome.retry_after_s)
            return Wait(outcome.retry_after_s)
        if outcome.kind is Kind.MIGRATE:
            await self._ports.move_chat(bot, chat, outcome.migrate_to)
            return Wait(None)
        if outcome.kind in UNWELL:
            return self._retry()
        if outcome.reason is Reason.CONTENT and not self._plain:
            self._plain = True
            return None
        if outcome.reason is Reason.TOKEN and self._ports.token_of(bot) != self._token:
            return BACK  # it was replaced meanwhile
        if outcome.reason in {Reason.CHAT_DEAD, Reason.TOKEN}:
            return await self._suspend(0 if outcome.reason is Reason.TOKEN else chat, outcome.description)
        self._skip(f"gave up: {outcome.reason}")
        return Wait(None)

    async def _flood(self, retry_after_s: float) -> None:
        bot, chat = self._card.bot_id, self._card.chat_id
        closed_s = {chat: retry_after_s, 0: self._close_for(retry_after_s)}
        for place, seconds in closed_s.items():  # for whoever takes the bot over
            if seconds > 0:
                until = self._ports.clock() + timedelta(seconds=seconds)
                await self._ports.limit_chat(ChatLimit(bot_id=bot, chat_id=place, until=until, reason="flood"))

    async def _suspend(self, chat: int, reason: str) -> Wait:
        """Nobody writes to the chat (0: for the bot) until a person resumes it. The card stays due, for that moment."""
        bot = self._card.bot_id
        is_new = await self._ports.limit_chat(ChatLimit(bot_id=bot, chat_id=chat, until=None, reason=reason))
        if is_new and chat == 0:
            logger.error("bot {} is suspended: {}; see callgram subscriber list", bot, reason)
        self._skip(f"blocked: {reason}")
        return Wait(0.0, failed=False)

    def _skip(self, reason: str) -> None:
        """Why the stage is not in the chat, for whoever asks."""
        SKIPS.labels(reason.partition(":")[0]).inc()
        self._trace(at=self._ports.clock(), stage=self._card.stage, op=Op.SKIP, outcome="skipped", reason=reason)

    def _close_for(self, seconds: float) -> float:
        """429: the chat takes nothing for so long; a little longer, so that not all chats of a bot come back at once.
        Answers for how long the whole bot takes nothing."""
        bot, chat, jitter = self._card.bot_id, self._card.chat_id, self._ports.chance() / 2
        return self._ports.limits.flood(bot, chat, seconds, self._ports.monotonic(), jitter_s=jitter)

    def _retry(self) -> Wait:
        return Wait(BACKOFF_S[min(self._card.attempts, len(BACKOFF_S) - 1)])

    # Reports

    def _note(self, *asked: Any, **more: Any) -> None:
        """Add to the trace what Telegram was asked and answered, as ``_action`` has it, with the next report."""
        self._actions.append(self._action(*asked, **more))

    def _action(
        self,
        op: Op,
        outcome: Outcome,
        message_id: int,
        text: str,
        at: datetime,
        *,
        found: bool = False,
        stage: Stage | None = None,
    ) -> Action:
        count_call(op, outcome.kind, outcome.took_s)
        if outcome.kind in UNWELL:
            say = "Telegram: {} of a {}: {} {}; it goes on by itself"
            about = (outcome.kind, op, outcome.reason, outcome.description)
            self._ports.trouble.say("WARNING", outcome.kind, self._ports.monotonic(), say, *about)
        said, reason = str(outcome.kind), f"{outcome.reason}: {outcome.description}" if outcome.description else ""
        if outcome.ok and outcome.reason in {Reason.DONE_ALREADY, Reason.GONE} and not found:
            # Done by a try whose answer was lost, then it is ours and executed; else somebody else was faster.
            said = "ok" if self._repeated else str(outcome.reason)
        elif found:
            reason = "found: its answer had been lost"
        return self._of_card(
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

    def _trace(self, **fields: Any) -> None:
        """Add to the trace what is said of this card, with the next report."""
        self._actions.append(self._of_card(**fields))

    def _of_card(self, **fields: Any) -> Action:
        card = self._card
        return Action(
            enterprise=card.enterprise,
            call_id=card.call_id,
            unique_id=self._call.unique_id,
            chat_id=card.chat_id,
            bot_id=card.bot_id,
            **fields,
        )

    def _report(self, wait: Wait | None) -> None:
        """Hand over what was done so far; ``None`` keeps the card in hand."""
        retry_at = None
        if wait is None:
            self._card = msgspec.structs.replace(self._card, attempts=0)
        elif wait.in_place:
            retry_at = self._card.due_at
        elif wait.seconds is not None:
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
                attempts=self._attempts(wait),
            )
        )

    def _attempts(self, wait: Wait | None) -> int:
        if wait is None or wait.seconds is None:
            return 0
        return self._card.attempts + wait.failed if wait.failed or wait.goes_on else 0
