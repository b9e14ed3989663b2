"""The enricher: asks plugins what they know about the parties of a call, and stores the answer as an event of the call.

Works beside the planner and outside of any transaction, so that no message waits for it: what is found is planned like
any other event, and becomes an edit. Asks again only when a call has something new to be asked about. Refuses to
remember without end: of too many calls that wait, the oldest are not asked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from loguru import logger

from callgram.calls.story import Call
from callgram.context import Context, Directory
from callgram.errors import StoreError
from callgram.events import Enrichment, Kind
from callgram.loader import Plugins
from callgram.store import NewEvent, Store

WORKERS = 8  # calls that are asked about at once: a lookup over HTTP may take its whole deadline
MAX_WAITING = 2_000
MAX_ASKED = 20_000  # calls of which it is remembered what was asked about
REPEAT_S = 5.0
BEHIND_S = 0.02  # what the call's first message needs of this process goes before
Key = tuple[str, int]  # enterprise, call


class Enricher:
    """Asks until stopped. ``stored`` is told of each answer that was stored."""

    def __init__(
        self,
        store: Store,
        plugins: Plugins,
        directory: Callable[[], Directory],
        clock: Callable[[], datetime],
        *,
        stored: Callable[[Sequence[NewEvent]], None],
    ) -> None:
        self._store, self._plugins, self._directory, self._clock = store, plugins, directory, clock
        self._stored = stored
        self._waiting: dict[Key, Call] = {}
        self._asked: dict[Key, frozenset[str]] = {}
        self._offered = asyncio.Event()

    def offer(self, calls: Iterable[Call]) -> None:
        """These calls changed. Those with something new to ask about will be asked about."""
        for call in calls:
            key, wanted = (call.enterprise, call.id), asked_about(call)
            if not call.unique_id or wanted <= self._asked.get(key, frozenset()) or not self._askable(call.enterprise):
                continue
            self._asked.pop(key, None)
            self._asked[key] = wanted
            self._waiting[key] = call
        _forget(self._asked, MAX_ASKED)
        if _forget(self._waiting, MAX_WAITING):
            logger.warning("more than {} calls wait for names; the oldest go without", MAX_WAITING)
        if self._waiting:
            self._offered.set()

    def _askable(self, enterprise: str) -> bool:
        able = self._plugins.dispatcher.plugins("enrich_call")
        return bool(able) and not set(able).isdisjoint(self._plugins.enabled(enterprise))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            while self._waiting:
                key = next(iter(self._waiting))
                call = self._waiting.pop(key)
                try:
                    await self.enrich(call)
                except StoreError as error:
                    logger.warning("what was found out about a call is not stored: {}", error)
                    self._asked.pop(key, None)
            self._offered.clear()
            await self._offered.wait()
            await asyncio.sleep(BEHIND_S)

    async def enrich(self, call: Call) -> bool:
        """Ask the plugins about one call; True when they knew something new, which is stored then."""
        found = news(await self._ask(call), call)
        if found is None:
            return False
        body = msgspec.json.encode({"UniqueId": call.unique_id, **msgspec.to_builtins(found)})
        digest = hashlib.blake2b(b"\0".join((call.enterprise.encode(), b"names", body)), digest_size=16).digest()
        event = NewEvent(
            enterprise=call.enterprise,
            kind=Kind.NAMES,
            unique_id=call.unique_id,
            received_at=self._clock(),
            digest=digest,
            repeat_s=REPEAT_S,
            body=body,
        )
        await self._store.append([event])
        self._stored([event])
        return True

    async def _ask(self, call: Call) -> list[Enrichment]:
        number = call.enterprise

        def arguments(plugin: str) -> dict[str, Any]:
            ctx = Context(
                now=self._clock(),
                enterprise=self._directory().enterprises.get(number),
                locale=self._plugins.file.call_settings(number).locale(),
                settings=self._plugins.settings(plugin, number),
            )
            return {"ctx": ctx, "call": call}

        outcomes = await self._plugins.dispatcher.every("enrich_call", self._plugins.enabled(number), arguments)
        return [answer for outcome in outcomes if (answer := read_answer(outcome.value)) is not None]


def asked_about(call: Call) -> frozenset[str]:
    """Everything about a call that a plugin could know more of. A call that ended may have a recording."""
    told = {call.client, call.caller, call.line, call.recording, *call.rung, *call.ringing, *call.talkers}
    return frozenset(told - {""} | ({"ended"} if call.ended else set()))


def read_answer(value: Any) -> Enrichment | None:
    """A plugin's answer: an Enrichment, or the bare ``{number: name}``; ``None`` for anything else."""
    if isinstance(value, Enrichment):
        return value
    if isinstance(value, dict):
        return Enrichment(names={str(number): str(name) for number, name in value.items()})
    return None


def news(answers: Iterable[Enrichment], call: Call) -> Enrichment | None:
    """What the answers, the first plugin's before the others', say that ``call`` doesn't say already."""
    names: dict[str, str] = {}
    history, recording = None, ""
    for answer in answers:
        names = answer.names | names
        history = history or answer.history
        recording = recording or answer.recording
    names = {number: name for number, name in names.items() if name and call.names.get(number) != name}
    history = history if history != call.history else None
    recording = recording if recording != call.recording_link else ""
    return Enrichment(names=names, history=history, recording=recording) if names or history or recording else None


def _forget(kept: dict[Key, Any], limit: int) -> bool:
    """Drop the oldest above ``limit``; True when any was."""
    surplus = len(kept) - limit
    for key in list(kept)[: max(surplus, 0)]:
        del kept[key]
    return surplus > 0
