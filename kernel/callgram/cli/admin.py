"""Administrative commands. They work beside a running ``serve`` on the same database or data directory."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import click
import msgspec

from callgram.commands import with_store
from callgram.context import Chat, Directory, Enterprise, Secret
from callgram.errors import ConfigError
from callgram.settings import load
from callgram.signatures import new_secret, rotated
from callgram.store import Store

CHAT_ID = click.IntRange(-(2**52), 2**52)  # "at most 52 significant bits" (Bot API, Chat)


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
    """Enterprises: add or change, make their secrets, list."""


_REQUIRE = click.option(
    "--require-signature/--no-require-signature", default=None, help="Whether events that are not signed are refused."
)


@enterprise.command("add")
@click.argument("number")
@click.option("--token", help="What its hosts send as Token.")
@click.option("--bot-token", help="Token of its bot, from BotFather.")
@click.option("--name", help="For people.")
@click.option(
    "--address", "addresses", multiple=True, help="Address or network that its hosts post from; may be given again."
)
@click.option("--any-address", is_flag=True, help="They may post from anywhere again.")
@_REQUIRE
def enterprise_add(number: str, **given: Any) -> None:
    """Add the enterprise NUMBER, which needs --token and --bot-token, or change what is given of it.

    Addresses that are given replace those of before. Where there are none, its hosts may post from anywhere. A new token
    of the same bot is that of all its enterprises, and keeps its subscribers.
    """
    if not re.fullmatch(r"\S{1,64}", number):
        raise ConfigError("NUMBER: use 1 to 64 characters without spaces, such as 0367")
    told = _checked(**given)
    done: list[Enterprise] = []

    def change(old: Enterprise | None) -> Enterprise:
        if old is None and not {"token", "bot_token"} <= told.keys():
            raise ConfigError(f"there is no enterprise {number}; to add it, give --token and --bot-token")
        new = msgspec.structs.replace(old, **told) if old else Enterprise(number=number, **told)
        if new.require_signature and not new.secrets:
            raise ConfigError(f"enterprise {number} has no secret to sign with; callgram enterprise secret {number} makes one")
        done.append(new)
        return new

    async def put(store: Store) -> bool:
        await store.change_enterprise(number, change)
        return any((one.bot_id, one.chat_id, one.until) == (done[0].bot_id, 0, None) for one in await store.limits())

    suspended = with_store(put)
    state, next_step = (" is suspended", "resume {} 0") if suspended else ("", "add {} CHAT_ID")
    click.echo(f"enterprise {number}: bot {done[0].bot_id}{state}. Next: callgram subscriber {next_step.format(number)}")


def _checked(
    *,
    token: str | None,
    bot_token: str | None,
    name: str | None,
    addresses: tuple[str, ...],
    any_address: bool,
    require_signature: bool | None,
) -> dict[str, Any]:
    """Those fields of an Enterprise that were given."""
    if token is not None and not token.strip():
        raise ConfigError("--token is empty; give what the hosts of the enterprise send as Token")
    if bot_token is not None and not re.fullmatch(r"[1-9]\d{0,17}:[A-Za-z0-9_-]+", bot_token):
        raise ConfigError("--bot-token is no bot token; it looks like 123456:ABC-def, see BotFather")
    if addresses and any_address:
        raise ConfigError("--address and --any-address exclude each other; give one of them")
    try:
        networks = tuple(ip_network(one) for one in addresses)
    except ValueError as error:
        raise ConfigError(f"--address: {error}; give an address or a network such as 10.0.0.0/8") from None
    fields = {
        "token": Secret(token.strip()) if token is not None else None,
        "bot_token": Secret(bot_token) if bot_token is not None else None,
        "name": name,
        "addresses": networks if networks or any_address else None,
        "require_signature": require_signature,
    }
    return {field: value for field, value in fields.items() if value is not None}


@enterprise.command("secret")
@click.argument("number")
@_REQUIRE
@click.option("--retire", is_flag=True, help="Make none; the one before the newest is valid no longer.")
@click.option("--remove", is_flag=True, help="Make none; forget all. Its hosts need not sign.")
def enterprise_secret(number: str, require_signature: bool | None, retire: bool, remove: bool) -> None:
    """Make a secret that the hosts of enterprise NUMBER sign events with, and show it this once.

    The secret of before stays valid until the next one is made, or until --retire: give the new one to the hosts meanwhile.
    """
    if remove and (retire or require_signature):
        raise ConfigError("--remove goes neither with --retire nor with --require-signature")
    made = None if retire or remove else new_secret()

    def change(old: Enterprise | None) -> Enterprise:
        if old is None:
            raise ConfigError(f"there is no enterprise {number}; see callgram enterprise list")
        if retire and not old.secrets:
            raise ConfigError(f"enterprise {number} has no secret; without --retire one is made")
        required = old.require_signature if require_signature is None else require_signature
        secrets = rotated(old.secrets, made) if made else () if remove else old.secrets[:1]
        return msgspec.structs.replace(old, secrets=secrets, require_signature=required and bool(secrets))

    with_store(lambda store: store.change_enterprise(number, change))
    if made:
        click.echo(made.reveal())
        click.echo("It is not shown again. docs/events.md says how to sign with it.", err=True)
    else:
        click.echo(f"enterprise {number}: {'its secrets are' if remove else 'all but its newest secret is'} forgotten")


@enterprise.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def enterprise_list(as_json: bool) -> None:
    """List the enterprises, without their secrets."""
    directory: Directory = with_store(lambda store: store.directory())
    rows = [_listed(one, directory) for one in directory.enterprises.values()]
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    columns = ("number", "name", "bot", "chats", "addresses", "signature")
    shown = [{**row, "addresses": ", ".join(row["addresses"]) or "any"} for row in rows]
    show("enterprises", columns, [tuple(str(row[column]) for column in columns) for row in shown])


def _listed(one: Enterprise, directory: Directory) -> dict[str, Any]:
    signature = "required" if one.require_signature else "accepted" if one.secrets else "none"
    return {
        "number": one.number,
        "name": one.name,
        "bot": one.bot_id,
        "chats": len(directory.chats_of(one.number)),
        "addresses": [str(network) for network in one.addresses],
        "signature": signature,
        "secrets": len(one.secrets),
    }


@click.group()
def subscriber() -> None:
    """Chats that get an enterprise's messages: add, remove, list, mute, resume."""


@subscriber.command("add", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=CHAT_ID)
@click.option("--name", default="", help="For people.")
def subscriber_add(number: str, chat_id: int, name: str) -> None:
    """Send the messages of enterprise NUMBER to CHAT_ID too. Groups have negative ids."""
    if chat_id == 0:
        raise ConfigError("CHAT_ID is 0; use the id of a person, or a group's negative one")
    added = with_store(lambda store: store.add_subscriber(number, Chat(id=chat_id, name=name)))
    click.echo(f"chat {chat_id} {'is subscribed' if added else 'was subscribed already'}")


@subscriber.command("remove", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=CHAT_ID)
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
    if number is not None and number not in directory.enterprises:
        raise ConfigError(f"there is no enterprise {number}; see callgram enterprise list")
    now = datetime.now(UTC)
    closed = {(limit.bot_id, limit.chat_id): limit for limit in limits if limit.until is None}
    rows = []
    for one in directory.enterprises.values():
        for chat in directory.chats_of(one.number) if number in {None, one.number} else ():
            limit = closed.get((one.bot_id, chat.id)) or closed.get((one.bot_id, 0))
            state = f"muted until {chat.muted_until:%Y-%m-%d %H:%M}Z" if chat.muted_until and now < chat.muted_until else "ok"
            if limit:
                state = f"{'suspended' if limit.chat_id else 'bot suspended'}: {limit.reason}"
            rows.append((one.number, str(chat.id), chat.name, state))
    show("subscribers", ("enterprise", "chat", "name", "state"), rows)


@subscriber.command("mute", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=CHAT_ID)
@click.option("--hours", default=12.0, show_default=True, type=click.FloatRange(0, 8760), help="0 ends it.")
def subscriber_mute(number: str, chat_id: int, hours: float) -> None:
    """Start no message in CHAT_ID of enterprise NUMBER for some time. What is there already is brought to its end."""
    until = datetime.now(UTC) + timedelta(hours=hours) if hours else None
    if not with_store(lambda store: store.mute(number, chat_id, until)):
        raise ConfigError(f"chat {chat_id} is not subscribed to enterprise {number}; see callgram subscriber list")
    click.echo(f"chat {chat_id} is {f'muted until {until:%Y-%m-%d %H:%M}Z' if until else 'not muted'}")


@subscriber.command("resume", context_settings={"ignore_unknown_options": True})
@click.argument("number")
@click.argument("chat_id", type=CHAT_ID)
def subscriber_resume(number: str, chat_id: int) -> None:
    """Write to a suspended CHAT_ID of enterprise NUMBER again; 0 resumes its bot."""

    async def resume(store: Store) -> bool:
        one = (await store.directory()).enterprises.get(number)
        if one is None:
            raise ConfigError(f"no enterprise {number}; see callgram enterprise list")
        return await store.lift_limit(one.bot_id, chat_id)

    click.echo("resumed" if with_store(resume) else "it was not suspended")
