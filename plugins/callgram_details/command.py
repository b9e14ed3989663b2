"""The commands: operators who may log in, tokens of the API, and the key that signs links."""

from __future__ import annotations

from typing import Any

import click

from callgram import ConfigError, Store, with_store
from callgram_details.accounts import OPERATOR, TOKEN, new_operator, new_token, read_operator, read_token
from callgram_details.keys import KEY, PLUGIN, new_key

LEAST = 10  # characters of a password


@click.group()
def operator() -> None:
    """Operators, who may log in to /calls: add, remove, list."""


@operator.command("add")
@click.argument("login")
@click.option("--enterprise", "enterprises", multiple=True, help="What it may see; repeat for several.")
@click.option("--all", "everything", is_flag=True, help="It may see every enterprise.")
@click.option("--masked", is_flag=True, help="It sees no outside number in full.")
@click.password_option(help="Asked for when not given.")
def operator_add(login: str, enterprises: tuple[str, ...], everything: bool, masked: bool, password: str) -> None:
    """Add the operator LOGIN, or change it; its sessions end."""
    if not login.strip() or len(login) > 64:
        raise ConfigError("LOGIN: use 1 to 64 characters")
    if len(password) < LEAST:
        raise ConfigError(f"--password: use at least {LEAST} characters")
    if everything == bool(enterprises):
        raise ConfigError("say what it may see: --enterprise NUMBER (once or more), or --all")

    async def add(store: Store) -> None:
        known = (await store.directory()).enterprises
        unknown = [number for number in enterprises if number not in known]
        if unknown:
            raise ConfigError(f"there is no enterprise {unknown[0]}; see callgram enterprise list")
        key, value = new_operator(login, password, None if everything else enterprises, masked=masked)
        await store.keep(PLUGIN, key, value)

    with_store(add)
    click.echo(f"operator {login} may log in at /calls/login")


@operator.command("remove")
@click.argument("login")
def operator_remove(login: str) -> None:
    """Take LOGIN's account away; its sessions end within seconds."""
    if not with_store(lambda store: _forget(store, OPERATOR + login)):
        raise ConfigError(f"there is no operator {login}; see callgram operator list")
    click.echo(f"operator {login} is removed")


@operator.command("list")
def operator_list() -> None:
    """List the operators and what they may see."""
    kept: dict[str, bytes] = with_store(lambda store: store.kept(PLUGIN))
    for key in sorted(kept):
        if key.startswith(OPERATOR):
            one = read_operator(kept[key])
            sees = "all" if one.enterprises is None else ", ".join(one.enterprises)
            click.echo(f"{one.login}: {sees}{', numbers masked' if one.masked else ''}")


@click.group()
def details() -> None:
    """The call page: tokens of its API, the key of its links."""


@details.command("token")
@click.argument("number")
@click.option("--masked", is_flag=True, help="It gets no outside number in full.")
def details_token(number: str, masked: bool) -> None:
    """Make a bearer token for the API, for enterprise NUMBER. It is shown once."""

    async def make(store: Store) -> str:
        if number not in (await store.directory()).enterprises:
            raise ConfigError(f"there is no enterprise {number}; see callgram enterprise list")
        bearer, key, value = new_token(number, masked=masked)
        await store.keep(PLUGIN, key, value)
        return bearer

    click.echo(with_store(make))


@details.command("tokens")
def details_tokens() -> None:
    """List the tokens, without their secrets."""
    kept: dict[str, bytes] = with_store(lambda store: store.kept(PLUGIN))
    for key in sorted(kept):
        if key.startswith(TOKEN):
            one = read_token(kept[key])
            click.echo(f"{one.id}: {one.enterprise}{', numbers masked' if one.masked else ''}")


@details.command("withdraw")
@click.argument("token_id")
def details_withdraw(token_id: str) -> None:
    """Withdraw the token TOKEN_ID; it is refused within seconds."""
    if not with_store(lambda store: _forget(store, TOKEN + token_id)):
        raise ConfigError(f"there is no token {token_id}; see callgram details tokens")
    click.echo(f"token {token_id} is withdrawn")


@details.command("rotate-key")
def details_rotate_key() -> None:
    """Make a new key: every link in every chat, and every session, ends within seconds."""
    with_store(lambda store: store.keep(PLUGIN, KEY, new_key()))
    click.echo("links and sessions of before are void; the buttons of new messages work")


async def _forget(store: Any, key: str) -> bool:
    there = key in await store.kept(PLUGIN)
    if there:
        await store.keep(PLUGIN, key, None)
    return there
