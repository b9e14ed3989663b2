"""Replies: the audio that follows final messages, fetched and sent beside the texts of the chats, which wait for neither.

Here is what a sender has in hand of them: files that are being fetched, promises that it gave, sends that are out. The card
holds the truth (callgram.cards, ``Shown.audio``); what is forgotten here is fetched again, or in doubt. A file is fetched
once for all chats and uploaded once for each bot. Refuses addresses that are not public unless it is allowed, redirects,
what is not audio, and what is too long; never tells where audio is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from callgram import fetching
from callgram.audio import Audio, File, form_of
from callgram.errors import CallgramError
from callgram.telegram.outcome import Kind, Outcome, Reason

MAX_FILES = 8  # in memory at once, and so at most 400 MB
MAX_OF_HOST = 2  # of them: a host that hangs holds up few others
KEPT_S = 30.0  # a file that nobody asks for
FAILED_S = 3.0  # so long a failure is not tried again for the next chat
REMEMBERED = 2_000
CHUNK = 64 * 1024
UNHEARD = Outcome(kind=Kind.AMBIGUOUS, reason=Reason.AMBIGUOUS)


class NoAudioError(CallgramError):
    """The audio cannot be fetched. ``final``: nor will it be later."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class Promise(NamedTuple):
    """A promise of a card (``Shown.audio``), wherever it is: calls may turn out to be one."""

    bot_id: int
    chat_id: int
    key: str
    at: datetime


class Reply(msgspec.Struct):
    """A promise of ours. ``sending`` is ``None`` before it is out, ``file`` behind that, or where it came too late."""

    at: float
    file: File | None
    sending: asyncio.Task[Outcome] | None = None
    by_id: bool = False

    @property
    def is_out(self) -> bool:
        return self.sending is not None and not self.sending.done()

    @property
    def outcome(self) -> Outcome | None:
        if self.sending is None or not self.sending.done():
            return None
        broken = self.sending.cancelled() or self.sending.exception() is not None
        return UNHEARD if broken else self.sending.result()


class _Fetch(msgspec.Struct):
    """``at`` is when it was begun, then when its file was last asked for, or its failure first told."""

    task: asyncio.Task[File]
    at: float
    told: bool = False

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class Replies:
    """Of one sender. ``now`` is seconds of a monotonic clock throughout."""

    def __init__(self, fetch: Callable[[Audio], Awaitable[File]] | None = None) -> None:
        self._sessions = fetching.Sessions()
        self._fetch = fetch or self._download
        self._files: dict[Audio, _Fetch] = {}
        self._ids: OrderedDict[tuple[int, str], File] = OrderedDict()
        self._given: OrderedDict[Promise, Reply] = OrderedDict()

    def file(self, bot_id: int, audio: Audio, now: float) -> File | None:
        """The audio as the bot may send it now; ``None``: ask again in a moment. Raises NoAudioError."""
        known = self._ids.get((bot_id, audio.key))
        if known is not None:
            return known
        if any(
            one[0] == bot_id and one.key == audio.key and self._uploads(reply, now)
            for one, reply in self._given.items()
        ):
            return None  # the others will have its id
        self._sweep(now, audio)
        held = self._files.get(audio)
        if held is None:
            busy = [_host(other) for other, one in self._files.items() if not one.failed]
            if len(busy) < MAX_FILES and busy.count(_host(audio)) < MAX_OF_HOST:
                self._files[audio] = _Fetch(asyncio.ensure_future(self._fetch(audio)), now)
            return None
        if not held.task.done():
            return None
        if not (held.failed and held.told):
            held.at, held.told = now, True
        return held.task.result()

    def promise(self, promise: Promise, file: File, now: float) -> None:
        self._given[promise] = Reply(now, file, by_id=bool(file.file_id))
        surplus = len(self._given) - REMEMBERED
        for one in [one for one, reply in self._given.items() if not reply.is_out][: max(surplus, 0)]:
            del self._given[one]

    def given(self, promise: Promise) -> Reply | None:
        """What is known of a promise, ``None`` where it is not one of ours."""
        return self._given.get(promise)

    def forget(self, promise: Promise) -> None:
        self._given.pop(promise, None)

    def send(self, promise: Promise, sending: Coroutine[Any, Any, tuple[Outcome, str]]) -> None:
        """Keep the promise: ``sending`` answers how it ended, and the ``file_id`` (``""``: the one used is none)."""
        reply = self._given[promise]
        reply.sending = asyncio.ensure_future(self._send(promise, reply, sending))

    async def _send(self, promise: Promise, reply: Reply, sending: Coroutine[Any, Any, tuple[Outcome, str]]) -> Outcome:
        outcome, file_id = await sending
        file, reply.file = reply.file, None
        place = (promise.bot_id, promise.key)
        if outcome.ok and file_id and file is not None:
            self._ids[place] = File(file.form, file.size, file_id=file_id)
            for audio in [audio for audio in self._files if audio.key == promise.key]:
                del self._files[audio]
            while len(self._ids) > REMEMBERED:
                self._ids.popitem(last=False)
        elif outcome.kind is Kind.REJECTED:
            self._ids.pop(place, None)
        return outcome

    def under_way(self, bot_id: int = 0, chat_id: int = 0) -> bool:
        """Whether any reply (into that chat) is out whose end is not known."""
        return any(reply.is_out and (not bot_id or one[:2] == (bot_id, chat_id)) for one, reply in self._given.items())

    def sent_ids(self, bot_id: int, chat_id: int) -> list[tuple[int, datetime]]:
        """``[(message id, sent at)]`` of what went into the chat; the trace may not have it yet."""
        sent = ((one, reply.outcome) for one, reply in self._given.items() if one[:2] == (bot_id, chat_id))
        return [(outcome.message_id, one.at) for one, outcome in sent if outcome is not None and outcome.message_id > 0]

    async def close(self) -> None:
        """Returns when everything that is out has its answer: a send is never cancelled, or it would be ambiguous."""
        sends = [reply.sending for reply in self._given.values() if reply.sending is not None]
        await asyncio.gather(*sends, return_exceptions=True)
        fetches = [held.task for held in self._files.values()]
        for task in fetches:
            task.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        await self._sessions.close()

    def _uploads(self, reply: Reply, now: float) -> bool:
        if reply.file is None or not reply.file.body:
            return False
        return reply.is_out or (reply.sending is None and reply.at > now - KEPT_S)

    def _sweep(self, now: float, wanted: Audio) -> None:
        for audio, held in list(self._files.items()):
            kept_s = FAILED_S if held.failed and held.told else KEPT_S
            if held.task.done() and held.at < now - kept_s and (held.told or audio != wanted):
                del self._files[audio]
        for reply in self._given.values():
            if reply.sending is None and reply.at < now - 2 * KEPT_S:
                reply.file = None  # its card did not come back in time

    # Fetching

    async def _download(self, audio: Audio) -> File:
        """All of it. Raises NoAudioError."""
        from aiohttp import ClientError  # only where something is fetched

        try:
            fetching.refuse_literal(audio.url, allow_private=audio.allow_private)
        except ValueError as error:  # another text than ours may name the address
            reason = str(error) if str(error) == fetching.REFUSED else "its address is none"
            raise NoAudioError(reason, final=True) from None
        session = self._sessions.get(allow_private=audio.allow_private)
        asked = {"Accept": "audio/*", "Accept-Encoding": "identity"}
        try:
            async with asyncio.timeout(audio.timeout_s):
                async with session.get(audio.url, headers=asked, allow_redirects=False) as answer:
                    return await _read(answer, audio)
        except (ClientError, OSError, ValueError) as error:  # their texts name the address
            private = fetching.REFUSED in str(error)
            reason = fetching.REFUSED if private else f"its server cannot be asked: {type(error).__name__}"
            raise NoAudioError(reason, final=private) from None


def _host(audio: Audio) -> str:
    try:
        return urlsplit(audio.url).hostname or ""
    except ValueError:
        return ""


async def _read(answer: Any, audio: Audio) -> File:
    if answer.status != 200:
        raise NoAudioError(f"its server answers {answer.status}", final=300 <= answer.status < 400)
    if not answer.content_type.startswith("audio/"):
        raise NoAudioError("it is not audio", final=True)
    too_long = NoAudioError(f"it is longer than {audio.limit // (1024 * 1024)} MB", final=True)
    if (answer.content_length or 0) > audio.limit:
        raise too_long
    body = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > audio.limit:
            raise too_long
    if not body:
        raise NoAudioError("it is empty", final=False)
    return File(form_of(bytes(body[:64]), answer.content_type), len(body), body=bytes(body))
