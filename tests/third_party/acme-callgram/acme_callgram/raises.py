"""Raises in every hook but ``startup``, for which there is ``raises_at_start``."""

from __future__ import annotations

from typing import Any

from callgram import hookimpl


class AcmeError(Exception):
    """Nobody but this plugin knows this class."""


@hookimpl
async def plan_message() -> None:
    raise AcmeError("plan_message")


@hookimpl
async def render_message() -> None:
    raise AcmeError("render_message")


@hookimpl
async def on_event() -> None:
    raise AcmeError("on_event")


@hookimpl
async def on_telegram_action() -> None:
    raise AcmeError("on_telegram_action")


@hookimpl
async def enrich_call() -> None:
    raise AcmeError("enrich_call")


@hookimpl
async def open_store() -> None:
    raise AcmeError("open_store")


@hookimpl
async def http_routes() -> list[Any]:
    raise AcmeError("http_routes")


@hookimpl
async def cli_commands() -> list[Any]:
    raise AcmeError("cli_commands")


@hookimpl
async def shutdown() -> None:
    raise AcmeError("shutdown")


@hookimpl
async def on_callback() -> None:
    raise AcmeError("on_callback")
