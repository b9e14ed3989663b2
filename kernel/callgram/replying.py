"""Replying: the audio that follows a final message. Promised on the card, and sent once that is written down.

The send runs beside: an upload takes seconds, and holds up neither the card nor the texts of its chat. A promise of which
this process knows nothing was given by one that ended; what became of it nobody can say, and it is not sent again.
"""

from __future__ import annotations

import msgspec

from callgram.audio import Audio, File
from callgram.cards import NO_AUDIO, Card, Shown, Stage, with_audio, without_promise
from callgram.in_hand import SEARCH_PAUSE_S, Hand, Wait
from callgram.replies import NoAudioError, Promise
from callgram.store import Progress
from callgram.telegram import api
from callgram.telegram.outcome import Kind, Outcome, Reason
from callgram.trace import Op

FETCH_POLL_S = 1.0  # between looks at audio that is being fetched, or that another chat's reply uploads
UPLOAD_POLL_S = 5.0  # between looks at a reply that is out: a good end is reported at once
FETCH_AGAIN_S = (5.0, 30.0, 120.0, 600.0, 1800.0)  # a host may tell of a recording that is still being converted
NOT_IN_HAND = -1  # the fence of a report on a card that may be in anybody's hand


class Replying(Hand):
    """The steps of a Delivery that are about audio."""

    def _promise(self, audio: Audio) -> Wait | None:
        """Gives the card back in any case: until the audio is there, the chat is ready, and then until the promise is safe."""
        card, ports = self._card, self._ports
        now = ports.monotonic()
        try:
            file = ports.replies.file(card.bot_id, audio, now)
        except NoAudioError as error:
            return self._unfetched(audio, error)
        if file is None:
            return Wait(FETCH_POLL_S, failed=False, goes_on=True)
        ready = ports.limits.ready_at(card.bot_id, card.chat_id, now)
        if ready > now:  # texts go first, whatever their urgency
            return Wait(ready - now + SEARCH_PAUSE_S, failed=False)
        self._card = with_audio(card, audio, ports.clock())
        ports.replies.promise(self._place(self._card.shown[0]), file, now)
        return Wait(0.0, failed=False)

    def _unfetched(self, audio: Audio, error: NoAudioError) -> Wait | None:
        attempts = self._card.attempts
        if error.final or attempts >= len(FETCH_AGAIN_S):
            self._refuse_audio(audio, str(error))
            return None
        if not attempts:
            self._skip(f"audio later: {error}")
        return Wait(FETCH_AGAIN_S[attempts])

    def _refuse_audio(self, audio: Audio, reason: str) -> None:
        self._card = with_audio(self._card, audio, self._ports.clock(), NO_AUDIO)
        self._skip(f"no audio: {reason}")

    async def _follow(self, promise: Shown, message_id: int, audio: Audio | None) -> Wait | None:
        """Send what was promised, wait for its end, or take note of it."""
        replies, place = self._ports.replies, self._place(promise)
        reply = replies.given(place)
        if reply is None:
            self._note_in_doubt(promise)
            return None
        if reply.is_out:
            return Wait(UPLOAD_POLL_S, failed=False)
        if reply.outcome is not None:
            return await self._end_of_reply(promise, reply.outcome, audio, by_id=reply.by_id)
        if reply.file is None or audio is None or audio.key != promise.digest:
            replies.forget(place)
            self._card = without_promise(self._card, promise)
            return None
        wait = self._budget()
        if wait and wait.seconds:
            return Wait(wait.seconds + SEARCH_PAUSE_S, failed=False)
        if wait:
            return wait
        replies.send(place, self._upload(self._card, reply.file, message_id, audio.title))
        return Wait(UPLOAD_POLL_S, failed=False)

    def _place(self, promise: Shown) -> Promise:
        return Promise(self._card.bot_id, self._card.chat_id, promise.digest, promise.sent_at)

    async def _upload(self, card: Card, file: File, reply_to: int, title: str) -> tuple[Outcome, str]:
        """Runs beside: the card is in nobody's hand. Its end is reported like that of a node that was frozen."""
        ports, now = self._ports, self._ports.clock()
        outcome, file_id = await api.send_audio(
            ports.session, self._token, card.chat_id, file, reply_to=reply_to, title=title
        )
        promise = next(shown for shown in card.shown if shown.audio and not shown.message_id)
        became = msgspec.structs.replace(promise, message_id=outcome.message_id)
        action = self._action(Op.SEND, outcome, outcome.message_id, file.told, now, stage=Stage.HANGUP)
        ports.report(
            Progress(
                enterprise=card.enterprise,
                call_id=card.call_id,
                chat_id=card.chat_id,
                bot_id=card.bot_id,
                fence=NOT_IN_HAND,
                version=card.version,
                shown=(became,) if became.message_id else (),
                actions=(action,),
                released=False,
            )
        )
        if outcome.retry_after_s:
            await self._flood(outcome.retry_after_s)
        return outcome, file_id

    async def _end_of_reply(self, promise: Shown, outcome: Outcome, audio: Audio | None, *, by_id: bool) -> Wait | None:
        """The end is in the trace already; what follows from it?"""
        self._ports.replies.forget(self._place(promise))
        if outcome.ok or outcome.kind is Kind.AMBIGUOUS:
            unknown = {} if outcome.message_id else {"digest": ""}
            became = msgspec.structs.replace(promise, message_id=outcome.message_id, **unknown)
            self._card = without_promise(self._card, promise, became)
            return None
        self._card = without_promise(self._card, promise)
        if outcome.kind is Kind.FLOOD:
            return Wait(outcome.retry_after_s)
        # A chat may refuse files and take texts, in words that nobody has met: only the plainest end suspends it.
        dead = outcome.reason is Reason.TOKEN or (outcome.reason is Reason.CHAT_DEAD and outcome.status == 403)
        if outcome.kind is not Kind.REJECTED or dead:
            return await self._refused(outcome)
        if by_id:  # Telegram does not know the file any more: upload it
            return self._retry()
        if audio is not None:
            self._refuse_audio(audio, f"Telegram refuses it: {outcome.reason}")
        return None

    def _note_in_doubt(self, promise: Shown) -> None:
        """Its sender ended, or lost the bot, with the promise given: audio is no state of the call, and is not sent again."""
        self._card = without_promise(self._card, promise, msgspec.structs.replace(promise, digest=""))
        self._trace(
            at=promise.sent_at,
            stage=promise.stage,
            op=Op.SEND,
            text="🔉",
            outcome=str(Kind.AMBIGUOUS),
            reason="promised when its sender ended; audio that may be there is not sent again",
        )
