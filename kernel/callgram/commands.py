"""Commands: what a command of ours or of a plugin needs to work on the store, beside a running ``serve``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from callgram.store import Store

Result = TypeVar("Result")


def with_store(work: Callable[[Store], Awaitable[Result]]) -> Result:
    """Run ``work`` on the store that serve uses: the configured one, or the embedded one, started if it is not running.

    Raises:
        CallgramError: with the remedy; the command line shows it and exits 1.
    """
    from callgram import loader, logs, settings  # heavy: not for `callgram --help`
    from callgram.lifecycle import opened_store

    logs.set_up("ERROR")
    process = settings.load()
    plugins = loader.load(process, lambda outcome: None)

    async def run() -> Result:
        async with opened_store(process, plugins) as store:
            return await work(store)

    return asyncio.run(run())
