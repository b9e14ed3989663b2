"""Directory: who is behind a number. Answers names of clients, managers and lines, and how often a client called before.

Names come from the store's tables (``callgram directory import``), then, for clients, from an HTTP lookup of yours.
Draws nothing and delays nothing: what it finds is edited into messages that are there already. See README.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from callgram import Call, ConfigError, Context, Enrichment, NumberPlan, Store, hookimpl
from callgram_directory import lookup
from callgram_directory.lookup import Lookup


class Directory:
    """The plugin: keeps the lookups of the process, each enterprise's with its own cache and breaker."""

    Settings = lookup.Settings

    def __init__(self) -> None:
        self._store: Store | None = None
        self._lookups: dict[str, Lookup] = {}

    @hookimpl
    async def startup(self, ctx: Context) -> None:
        problem = lookup.problem_of(ctx.settings)
        if problem:
            raise ConfigError(f"plugin 'directory': {problem}")
        self._store = ctx.store

    @hookimpl
    async def shutdown(self, ctx: Context) -> None:
        for one in self._lookups.values():
            await one.close()

    @hookimpl
    async def cli_commands(self, ctx: Context) -> list[Any] | None:
        from callgram_directory.command import make_command  # click: only where commands are made

        return [make_command(ctx.process)]

    @hookimpl
    async def enrich_call(self, ctx: Context, call: Call) -> Enrichment | None:
        if self._store is None:
            return None
        settings: lookup.Settings = ctx.settings
        names = await self._known(self._store, call, ctx.locale.plan)
        if call.client and call.client not in names and settings.lookup_url:
            name = await self._lookup(call.enterprise, settings).name_of(call.client)
            names |= {call.client: name} if name else {}
        history = None
        if settings.history and call.client:
            history = await self._store.history(call.enterprise, call.client, before=call.started_at)
        return Enrichment(names=names, history=history)

    async def _known(self, store: Store, call: Call, plan: NumberPlan) -> dict[str, str]:
        """From the tables; a colleague's mobile may stand among the customers or the extensions."""
        inside = _said(call.caller, *call.rung, *call.ringing, *call.talkers)
        outside = _said(call.client, *(number for number in inside if not plan.is_extension(number)))
        names: dict[str, str] = {}
        if outside:
            names |= await store.names(call.enterprise, "customers", outside)
        if inside:
            names |= await store.names(call.enterprise, "extensions", inside)
        if call.line:
            names |= await store.names(call.enterprise, "lines", [call.line])
        return names

    def _lookup(self, enterprise: str, settings: lookup.Settings) -> Lookup:
        known = self._lookups.get(enterprise)
        if known is None or known.settings != settings:
            known = self._lookups[enterprise] = Lookup(settings)
        return known


def _said(*numbers: str) -> Iterable[str]:
    return [number for number in dict.fromkeys(numbers) if number]
