"""The sender: one owner per bot brings the cards of its chats to what they should show.

Each turn is one transaction: what finished is written, what is due is claimed (and by that marked in flight), then the
HTTP calls run side by side, one per (bot, chat). A bot's limits live in its owner's memory; its lease is in the store.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from loguru import logger

from callgram.context import Directory, Secret
from callgram.delivery import Delivery, Ports
from callgram.errors import StoreError
from callgram.loader import Plugins
from callgram.metrics import BOTS_OWNED
from callgram.store import Claim, Progress, Store
from callgram.telegram.limits import Limits

LEASE_TTL_S = 6.0
RENEW_S = 1.5
POLL_S = 0.5  # the truth, where a wake-up was lost or came from another node
IN_HAND = 256  # cards in flight at once


class Sender:
    """Sends until drained. ``done`` is called when something was written that sinks may read."""

    def __init__(
        self,
        store: Store,
        plugins: Plugins,
        directory: Callable[[], Directory],
        *,
        session: object,
        limits: Limits,
        clock: Callable[[], datetime],
        node: str,
        done: Callable[[], None],
    ) -> None:
        self._store, self._directory, self._limits, self._clock = store, directory, limits, clock
        self._node, self._done = node, done
        self._finished: list[Progress] = []
        self._jobs: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._renew = asyncio.Event()
        self._refused: frozenset[int] = frozenset()  # bots of other nodes: asked for again only at the next renewal
        self._leases: dict[int, int] = {}
        self._leased_until = 0.0
        self._draining = False
        self._due_at: datetime | None = None
        self._ports = Ports(
            plugins=plugins,
            directory=directory,
            session=session,
            limits=limits,
            clock=clock,
            monotonic=time.monotonic,
            chance=random.random,
            holds=self._holds,
            report=self._take,
            limit_chat=store.limit_chat,
            move_chat=store.move_chat,
            sent_ids=store.sent_ids,
        )

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self._leases)

    def _holds(self, bot: int, fence: int) -> bool:
        return self._leases.get(bot) == fence and time.monotonic() < self._leased_until

    def wake(self) -> None:
        """Something may be due, or a bot may be new. Any number of calls is one."""
        self._wake.set()
        if not self._leases.keys() >= self._directory().bots().keys() - self._refused:
            self._renew.set()

    def _take(self, progress: Progress) -> None:
        self._finished.append(progress)
        self._wake.set()

    async def run(self) -> None:
        """Send until :meth:`drain`. Leases are renewed beside, also while a turn waits for the database."""
        renewing = asyncio.create_task(self._keep_leases(), name="leases")
        try:
            while not (self._draining and not self._jobs and not self._finished):
                self._wake.clear()
                try:
                    await self._turn()
                except StoreError as error:
                    logger.warning("sender waits for the store: {}", error)
                    await asyncio.sleep(1.0)
                await self._rest()
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    def drain(self) -> None:
        """Claim nothing more, finish what is in flight: a send is never cancelled, or it would be ambiguous."""
        self._draining = True
        self._wake.set()

    async def _rest(self) -> None:
        """Until something happens, the next card is due, or the poll."""
        if self._draining and not self._jobs:
            return
        timeout = POLL_S
        ready = self._limits.next_ready(time.monotonic())
        if ready is not None:
            timeout = min(timeout, max(0.0, ready - time.monotonic()))
        if self._due_at is not None:
            timeout = min(timeout, max(0.0, (self._due_at - self._clock()).total_seconds()))
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _turn(self) -> None:
        finished, self._finished = self._finished, []
        blocked = self._limits.blocked(time.monotonic())
        closed = {bot for bot, chat in blocked if chat == 0}
        freed = {(progress.bot_id, progress.chat_id) for progress in finished if progress.released}
        usable = time.monotonic() < self._leased_until and not self._draining
        leases = {bot: fence for bot, fence in self._leases.items() if bot not in closed} if usable else {}
        try:
            claims = await self._store.exchange(
                finished,
                leases=leases,
                busy=[*(self._jobs.keys() - freed), *(pair for pair in blocked if pair[1] != 0)],
                limit=max(0, IN_HAND - len(self._jobs.keys() - freed)),
                now=self._clock(),
            )
        except StoreError:
            self._finished = finished + self._finished
            raise
        if any(progress.actions for progress in finished):
            self._done()
        for pair in freed:
            self._jobs.pop(pair, None)
        bots = self._directory().bots() if claims else {}
        for claim in claims:
            self._start(claim, bots.get(claim.card.bot_id))
        self._due_at = None if claims or not leases else await self._store.next_due(leases)

    def _start(self, claim: Claim, token: Secret | None) -> None:
        fence = claim.card.claimed_fence
        if token is None or fence is None:
            return  # the bot was taken away this very moment; the claim is found again
        delivery = Delivery(self._ports, claim, fence, token)
        pair = (claim.card.bot_id, claim.card.chat_id)
        self._jobs[pair] = asyncio.create_task(self._run(delivery, claim, fence), name=f"card {claim.card.call_id}")

    async def _run(self, delivery: Delivery, claim: Claim, fence: int) -> None:
        """One of the two places that catch broadly: a bug in one card must not stop the others. It is retried, loudly."""
        try:
            await delivery.deliver()
        except Exception:  # noqa: BLE001 - see above
            logger.exception("call {}: its card cannot be delivered", claim.card.call_id)
            delivery.give_back()

    async def _keep_leases(self) -> None:
        while True:
            began = time.monotonic()
            try:
                held = dict(await self._store.hold_leases(self._node, self._directory().bots(), ttl_s=LEASE_TTL_S))
            except StoreError as error:
                logger.warning("leases are not renewed: {}", error)
            else:
                for bot in held.keys() - self._leases.keys():
                    self._limits.start_bot(bot, time.monotonic(), empty=held[bot] > 1)
                for bot in self._leases.keys() - held.keys():
                    self._limits.stop_bot(bot)
                if held.keys() != self._leases.keys():
                    self._wake.set()
                self._refused = frozenset(self._directory().bots().keys() - held.keys())
                self._leases, self._leased_until = held, began + LEASE_TTL_S - 1.0
                BOTS_OWNED.set(len(held))
            self._renew.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._renew.wait()
