"""Webhook delivery: updates go out in order, again and again until the endpoint takes them (rules R90, R91)."""

import asyncio
from typing import Any

import aiohttp
import msgspec

from callgram_simulator.chats import Bot
from callgram_simulator.dispatch import execute
from callgram_simulator.errors import ApiError
from callgram_simulator.inbox import Webhook
from callgram_simulator.params import Params
from callgram_simulator.state import State
from callgram_simulator.wire import Update

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
LONGEST_ASKED_RETRY_S = 3600.0
_TIMEOUT = aiohttp.ClientTimeout(total=60)
_NOT_EXECUTED = ("setwebhook", "deletewebhook", "close", "logout")


class Deliveries:
    """One task per bot with a webhook; it ends with the webhook."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def begin(self, bot_id: int) -> None:
        """Deliver to the bot's webhook as it is now."""
        running = self._tasks.pop(bot_id, None)
        if running is not None:
            running.cancel()
        bot = self._state.bots.get(bot_id)
        if bot is not None and bot.inbox.webhook is not None:
            self._tasks[bot_id] = asyncio.create_task(self._deliver(bot, bot.inbox.webhook))

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def _deliver(self, bot: Bot, webhook: Webhook) -> None:
        inbox, delay_s = bot.inbox, FIRST_RETRY_S
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                await inbox.arrival()
                if inbox.webhook is not webhook:
                    return
                update = inbox.pending[0]
                asked_s = await self._post(session, bot, webhook, update)
                if asked_s is None:
                    delay_s = FIRST_RETRY_S
                    if inbox.pending and inbox.pending[0] is update:
                        inbox.pending.popleft()
                    continue
                await asyncio.sleep(asked_s or delay_s)
                delay_s = min(delay_s * 2, LONGEST_RETRY_S)

    async def _post(self, session: aiohttp.ClientSession, bot: Bot, webhook: Webhook, update: Update) -> float | None:
        """Answer ``None`` when the update is taken, else the delay the endpoint asks for, 0 for none."""
        headers = {"Content-Type": "application/json"}
        if webhook.secret:
            headers["X-Telegram-Bot-Api-Secret-Token"] = webhook.secret
        try:
            async with session.post(webhook.url, data=msgspec.json.encode(update), headers=headers) as response:
                body = await response.read()
                if not response.ok:
                    asked = response.headers.get("Retry-After", "")
                    return min(float(asked), LONGEST_ASKED_RETRY_S) if asked.isdigit() else 0.0
        except (aiohttp.ClientError, TimeoutError):
            return 0.0
        await self._execute_answer(bot, body)
        return None

    async def _execute_answer(self, bot: Bot, body: bytes) -> None:
        """Execute the method that an endpoint answers with; its result is told to nobody."""
        try:
            given = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.MsgspecError:
            return
        method = str(given.pop("method", "")).lower()
        if not method or method.startswith("get") or method in _NOT_EXECUTED:
            return
        try:
            await execute(self._state, bot, method, Params(given))
        except ApiError:
            return
