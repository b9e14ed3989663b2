"""The store's life in the process: who opens it, and in which order it and the plugins are closed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from callgram.errors import ConfigError
from callgram.lifecycle import opened_store
from callgram.loader import Status
from callgram.settings import Settings, parse_plugins

SETTINGS = Settings(plugins=parse_plugins("api = 1\nplugin = []\n", "plugins.toml"), plugins_path="plugins.toml")


class Plugins:
    """``keeper`` opens the store, ``guest`` and ``other`` use it. ``told`` is what happened."""

    def __init__(self, opens: Any) -> None:
        self.told: list[str] = []
        self.dispatcher = self
        hooks = {"guest": (), "keeper": ("open_store",), "other": ("open_store",)}
        keeper = SimpleNamespace(open_store=opens)
        self.loaded = {
            name: SimpleNamespace(name=name, status=Status.OK, hooks=hooks[name], plugin=keeper) for name in hooks
        }

    def settings(self, _plugin: str, _enterprise: str | None) -> None:
        return None

    async def every(self, hook: str, names: tuple[str, ...], arguments: Any) -> list[Any]:
        for name in names:
            store = arguments(name)["ctx"].store
            self.told.append(f"{hook} {name}{' with the store' if store is not None and store.open else ''}")
        return []


class Store:
    def __init__(self, told: list[str]) -> None:
        self.open, self._told = True, told

    async def close(self) -> None:
        self.open = False
        self._told.append("closed")


async def use(plugins: Any) -> None:
    async with opened_store(SETTINGS, plugins):
        plugins.told.append("used")


def test_plugins_are_shut_down_while_the_store_still_answers_and_its_own_last() -> None:
    async def opens(ctx: Any) -> Store:
        return Store(plugins.told)

    plugins = Plugins(opens)
    asyncio.run(use(plugins))
    assert plugins.told == [
        "used",
        "shutdown guest with the store",
        "shutdown other with the store",
        "closed",
        "shutdown keeper",
    ]


def test_where_no_store_can_be_opened_all_plugins_are_shut_down() -> None:
    async def refuses(ctx: Any) -> Store:
        raise ConfigError("no server")

    plugins = Plugins(refuses)
    with pytest.raises(ConfigError, match="no server"):
        asyncio.run(use(plugins))
    assert plugins.told == ["shutdown guest", "shutdown keeper", "shutdown other"]
