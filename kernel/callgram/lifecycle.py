"""The life of plugins, from ``open_store`` and ``startup`` to ``shutdown``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from loguru import logger

from callgram.context import Context
from callgram.errors import ConfigError, PluginError
from callgram.loader import Loaded, Plugins, Status
from callgram.settings import Settings
from callgram.store import Store


def utc_now() -> datetime:
    return datetime.now(UTC)


def lifecycle_context(
    plugins: Plugins, settings: Settings, store: Store | None = None
) -> Callable[[str], dict[str, Any]]:
    """Arguments for the lifecycle hooks of each plugin."""

    def arguments(plugin: str) -> dict[str, Any]:
        ctx = Context(
            now=utc_now(),
            locale=settings.plugins.defaults.locale(),
            settings=plugins.settings(plugin, None),
            process=settings,
            store=store,
        )
        return {"ctx": ctx}

    return arguments


@asynccontextmanager
async def opened_store(settings: Settings, plugins: Plugins) -> AsyncIterator[Store]:
    """The store that a plugin opens. At the end the other plugins are shut down, it is closed, and then that plugin is.

    Raises:
        ConfigError: no plugin opens a store, or it cannot be opened; with the remedy.
    """
    names, arguments = tuple(plugins.loaded), lifecycle_context(plugins, settings)
    left = names
    try:
        store, opener = None, ""
        for one in plugins.loaded.values():
            if store is None and one.status is Status.OK and "open_store" in one.hooks:
                store, opener = await _open(one, arguments(one.name)["ctx"]), one.name
        if store is None:
            raise ConfigError('no plugin of plugins.toml opens a store; add [[plugin]] name = "postgres"')
        try:
            yield store
        finally:
            left = (opener,)
            others = tuple(name for name in names if name != opener)
            await plugins.dispatcher.every("shutdown", others, lifecycle_context(plugins, settings, store))
            await store.close()
    finally:
        await plugins.dispatcher.every("shutdown", left, arguments)


async def _open(one: Loaded, ctx: Context) -> Store | None:
    """Called past the dispatcher: without a store there is no service, so its error is the process's own."""
    store: Store | None = await one.plugin.open_store(ctx)
    return store


async def start_plugins(plugins: Plugins, settings: Settings, store: Store) -> None:
    """A plugin whose ``startup`` fails is out: required, that is the end; else it is said loudly."""
    names, arguments = tuple(plugins.loaded), lifecycle_context(plugins, settings, store)
    for outcome in await plugins.dispatcher.every("startup", names, arguments):
        if outcome.ending.failed:
            one = plugins.loaded[outcome.plugin]
            if one.required:
                raise PluginError(one.name, f"required, but {outcome.error}", hook="startup")
            plugins.take_out(one.name, f"startup failed: {outcome.error}")
            logger.error("plugin {} is out: {}", one.name, one.error)
