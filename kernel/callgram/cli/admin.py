"""Administrative commands. They work beside a running ``serve`` on the same database or data directory."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec

from callgram.commands import with_store
from callgram.context import Chat, Directory, Enterprise, Secret, bot_id
from callgram.errors import ConfigError
from callgram.settings import load
from callgram.store import Store


def show(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plugins(as_json: bool) -> None:
    """Show which plugins are loaded, and why others are not. Exit code 1 if a listed one is not ok."""
    from callgram import loader

    found = loader.load(load(), lambda outcome: None, tolerant=True)
    if as_json:
        keys = ("name", "status", "required", "distribution", "version", "hooks", "error")
        click.echo(msgspec.json.encode([{key: getattr(one, key) for key in keys} for one in found.loaded.values()]))
    else:
        rows = [
            (one.name, one.status, f"{one.distribution} {one.version}", ", ".join(one.hooks) or one.error)
            for one in found.loaded.values()
        ]
        show("plugins, in call order", ("name", "status", "from", "hooks"), rows)
    sys.exit(0 if found.ok else 1)


@click.group()
def enterprise() -> None:
    """Enterprises: add, list."""


@enterprise.command("add")
@click.argument("number")
@click.option("--token", required=True, help="What its hosts send as Token.")
@click.option("--bot-token", required=True, help="Token of its bot, from BotFather.")
@click.option("--name", default="", help="For people.")
def enterprise_add(number: str, token: str, bot_token: str, name: str) -> None:
    """Add the enterprise NUMBER, or change it."""
    if not re.fullmatch(r"\S{1,64}", number):
        raise ConfigError("NUMBER: use 1 to 64 characters without spaces, such as 0367")
    if not token.strip():
        raise ConfigError("--token is empty; give what the hosts of the enterprise send as Token")
    if not re.fullmatch(r"[1-9]\d{0,17}:[A-Za-z0-9_-]+", bot_token):
        raise ConfigError("--bot-token is no bot token; it looks like 123456:ABC-def, see BotFather")
    new = Enterprise(number=number, name=name, token=Secret(token.strip()), bot_token=Secret(bot_token))
    with_store(lambda store: store.put_enterprise(new))
    click.echo(f"enterprise {number}: bot {bot_id(new.bot_token)}. Next: callgram subscriber add {number} CHAT_ID")


@enterprise.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def enterprise_list(as_json: bool) -> None:
    """List the enterprises, without their secrets."""
    directory: Directory = with_store(lambda store: store.directory())
    rows = [(one, directory.chats_of(one.number)) for one in directory.enterprises.values()]
    if as_json:
        click.echo(
            msgspec.json.encode(
                [
                    {"number": one.number, "name": one.name, "bot": one.bot_id, "chats": len(chats)}
                    for one, chats in rows
                ]
            )
        )
        return
    show(
        "enterprises",
        ("number", "name", "bot", "chats"),
        [(one.number, one.name, str(one.bot_id), str(len(chats))) for one, chats in rows],
    )


@click.group()
def subscriber() -> None:
    """Chats that get an enterprise's messages: add, remove, list, mute, resume."""


@subscriber.command("add", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=int)
@click.option("--name", default="", help="For people.")
def subscriber_add(number: str, chat_id: int, name: str) -> None:
    """Send the messages of enterprise NUMBER to CHAT_ID too. Groups have negative ids."""
    if chat_id == 0:
        raise ConfigError("CHAT_ID is 0; use the id of a person, or a group's negative one")
    added = with_store(lambda store: store.add_subscriber(number, Chat(id=chat_id, name=name)))
    click.echo(f"chat {chat_id} {'is subscribed' if added else 'was subscribed already'}")


@subscriber.command("remove", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=int)
def subscriber_remove(number: str, chat_id: int) -> None:
    """Send no more messages of enterprise NUMBER to CHAT_ID."""
    if not with_store(lambda store: store.remove_subscriber(number, chat_id)):
        raise ConfigError(f"chat {chat_id} is not subscribed to enterprise {number}; see callgram subscriber list")
    click.echo(f"chat {chat_id} is no longer subscribed")


@subscriber.command("list")
@click.argument("number", required=False)
def subscriber_list(number: str | None) -> None:
    """List the chats, of enterprise NUMBER or of all, and those that Telegram refuses, with the reason."""

    async def collect(store: Store) -> Any:
        return await store.directory(), await store.limits()

    directory, limits = with_store(collect)
    now = datetime.now(UTC)
    closed = {(limit.bot_id, limit.chat_id): limit for limit in limits if limit.until is None}
    rows = []
    for one in directory.enterprises.values():
        for chat in directory.chats_of(one.number) if number in {None, one.number} else ():
            limit = closed.get((one.bot_id, chat.id)) or closed.get((one.bot_id, 0))
            state = f"muted until {chat.muted_until:%Y-%m-%d %H:%M}Z" if chat.muted_until and now < chat.muted_until else "ok"
            rows.append((one.number, str(chat.id), chat.name, f"suspended: {limit.reason}" if limit else state))
    show("subscribers", ("enterprise", "chat", "name", "state"), rows)


@subscriber.command("mute", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=int)
@click.option("--hours", default=12.0, show_default=True, type=click.FloatRange(0, 8760), help="0 ends it.")
def subscriber_mute(number: str, chat_id: int, hours: float) -> None:
    """Start no message in CHAT_ID of enterprise NUMBER for some time. What is there already is brought to its end."""
    until = datetime.now(UTC) + timedelta(hours=hours) if hours else None
    if not with_store(lambda store: store.mute(number, chat_id, until)):
        raise ConfigError(f"chat {chat_id} is not subscribed to enterprise {number}; see callgram subscriber list")
    click.echo(f"chat {chat_id} is {f'muted until {until:%Y-%m-%d %H:%M}Z' if until else 'not muted'}")


@subscriber.command("resume", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=int)
def subscriber_resume(number: str, chat_id: int) -> None:
    """Write to a suspended CHAT_ID of enterprise NUMBER again; 0 resumes its bot."""

    async def resume(store: Store) -> bool:
        one = (await store.directory()).enterprises.get(number)
        if one is None:
            raise ConfigError(f"no enterprise {number}; see callgram enterprise list")
        return await store.lift_limit(one.bot_id, chat_id)

    click.echo("resumed" if with_store(resume) else "it was not suspended")
