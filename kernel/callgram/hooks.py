"""Every hook of callgram: what a plugin can do, when it is asked, and what it may answer.

All hooks are ``async def``. A *deciding* hook (``verb_noun``) answers; an *observing* one (``on_noun``) is told. Plugins are
asked in the order of plugins.toml. Raising, hanging past the deadline or exiting harms only the plugin: it counts as
passing, is logged and shown by ``callgram plugins``. No wrappers, no ``tryfirst``, no default arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from callgram.calls.story import Call
    from callgram.cards import Message, Plan, Stage
    from callgram.context import Chat, Context
    from callgram.events import Enrichment, Event
    from callgram.store import Store
    from callgram.trace import Action

API_VERSION = 1
"""The version of this file that plugins are written against; a plugin may name it as ``CALLGRAM_API``."""

hookspec = pluggy.HookspecMarker("callgram")
hookimpl = pluggy.HookimplMarker("callgram")


@hookspec
async def plan_message(ctx: Context, call: Call, event: Event) -> Plan | None:
    """Say which stage the chats should show for ``call`` now, or ``None`` to have no opinion.

    Deciding, all plugins asked, the latest stage wins (of equal stages the first plugin's plan). Called by the planner
    inside its transaction, after ``event`` was folded into ``call``; also when the call's own clock ran out. Pure: no
    I/O, no clock but ``ctx.now``, and the same answer for the same call, because a batch may be planned twice.
    """


@hookspec(firstresult=True)
async def render_message(ctx: Context, call: Call, stage: Stage, chat: Chat) -> Message | None:
    """Answer the message that ``chat`` shows for ``call`` at ``stage``, or ``None`` to pass.

    Deciding, the first answer wins; the shipped plugins answer last (``trylast``), so a format of yours needs no
    settings to come first. Called when the message is about to be sent or edited, so it sees the newest state. Pure.
    Leave ``chat`` out where all chats see the same: one call then serves them all.
    Text is Telegram HTML, at most 4096 characters after entity parsing (Bot API, sendMessage); escape what comes from
    outside with ``callgram.escape``.
    """


@hookspec
async def decorate_message(ctx: Context, call: Call, stage: Stage, chat: Chat, message: Message) -> Message | None:
    """Answer ``message`` with something added (a button, as a rule), or ``None`` to leave it as it is.

    Deciding, all plugins asked in turn; each gets what the one before it answered. Called after ``render_message``, with
    its answer. Pure, and the same answer for the same arguments: another answer is another message, and an edit.
    """


@hookspec
async def on_event(ctx: Context, event: Event) -> None:
    """An event was stored. Observing: called after its commit, in commit order, at least once.

    Each plugin has its own durable place in the trace: one that raises or hangs is asked again with the same event
    and holds up nobody else.
    """


@hookspec
async def on_telegram_action(ctx: Context, action: Action) -> None:
    """A send, edit or delete was tried (``action.outcome``), or a stage was skipped, with its ``action.reason``.

    Observing: like ``on_event`` and in one order with it.
    """


@hookspec
async def enrich_call(ctx: Context, call: Call) -> Enrichment | dict[str, str] | None:
    """Answer what you know about the parties of ``call``: an ``Enrichment``, or the bare names
    (``{"375296254070": "Иванов Иван"}``), or ``None``.

    Deciding, all plugins asked, answers merged: the first plugin's name of a number wins, and so with the rest. Called
    outside of any transaction with a deadline, when a call has a party, a line or a recording that was not asked about
    yet, and when it ended; I/O is welcome. Never delays a first message: what is found is edited in.
    """


@hookspec(firstresult=True)
async def open_store(ctx: Context) -> Store | None:
    """Answer the store, connected and migrated, or ``None`` to pass. Once, before anything else starts.

    Raise ``ConfigError`` with the remedy when the store is configured but cannot be used: the start stops with it.
    """


@hookspec
async def http_routes(ctx: Context) -> list[Any] | None:
    """Answer Litestar route handlers to serve beside the ingest. Once, at start; paths of the kernel are taken."""


@hookspec
async def cli_commands(ctx: Context) -> list[Any] | None:
    """Answer ``click`` commands for ``callgram``. Called for every run of the program, ``--help`` too: import lazily."""


@hookspec
async def startup(ctx: Context) -> None:
    """The process starts: open what you need. ``ctx.settings`` is checked already. Raising takes the plugin out."""


@hookspec
async def shutdown(ctx: Context) -> None:
    """The process ends, after the last hook of yours was called: close what ``startup`` opened. ``ctx.store`` still answers,
    but for the plugin that opened it."""


@hookspec
async def on_callback(ctx: Context, query: dict[str, Any]) -> None:
    """A button under a message was pressed (Bot API, CallbackQuery). Observing; answer it within seconds."""
