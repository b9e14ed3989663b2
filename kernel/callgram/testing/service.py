"""The whole service in this process: real HTTP, real planner and sender, a store of your choice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from callgram.context import Chat, Enterprise
from callgram.service import Service, running
from callgram.settings import ROLES, Settings, parse_plugins
from callgram.store import Store
from callgram.testing.memory import MemoryStore

PLUGINS = """
api = 1
[[plugin]]
name = "start"
settings = { hold_s = 0.2 }
[[plugin]]
name = "dial"
[[plugin]]
name = "bridge"
[[plugin]]
name = "hangup"
[[plugin]]
name = "internal"
"""


@asynccontextmanager
async def service(
    *,
    telegram_url: str,
    enterprises: Sequence[tuple[Enterprise, Sequence[Chat]]] = (),
    plugins: str = PLUGINS,
    store: Store | None = None,
    **changes: Any,
) -> AsyncIterator[Service]:
    """A running service; ``.url`` is where to post. ``plugins`` is the text of a plugins.toml, ``changes`` are fields of
    Settings. Without ``store`` it is a fresh :class:`MemoryStore`."""
    used: Store = store or MemoryStore()
    for enterprise, chats in enterprises:
        await used.put_enterprise(enterprise)
        for chat in chats:
            await used.add_subscriber(enterprise.number, chat)
    settings = Settings(
        plugins=parse_plugins(plugins, "the test's plugins.toml"),
        plugins_path="test",
        telegram_api_url=telegram_url,
        port=0,
        node="test",
        serving=True,
        roles=ROLES,
        data_dir=Path("data"),
    )
    async with running(msgspec.structs.replace(settings, **changes), store=used) as started:
        yield started
