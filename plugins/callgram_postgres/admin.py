"""Administration: the enterprises and their bots' subscribers, in tables that may have been there before callgram."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg

from callgram.context import Chat, Directory, Enterprise, Secret
from callgram.errors import ConfigError
from callgram.shards import part_of
from callgram_postgres.house import House
from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries

SQL = queries("admin")
ADD_QUEUE = queries("planning")["add_queue"]


class Admin(House):
    """A part of PostgresStore."""

    def __init__(self, pools: Pools) -> None:
        super().__init__(pools)
        self._directory: Directory | None = None

    async def directory(self) -> Directory:
        """The same object as before while the mark is the same: asking often is cheap."""
        async with self._pools.take("rest") as connection:
            with translated():
                # The mark first: rows that change behind it are newer than their mark, and the next look sees that.
                mark = await connection.fetchval(SQL["directory_mark"])
                if self._directory is None or self._directory.mark != mark:
                    enterprises = await connection.fetch(SQL["all_enterprises"])
                    subscribers = await connection.fetch(SQL["all_subscribers"])
                    self._directory = _directory(mark, enterprises, subscribers)
        return self._directory

    async def put_enterprise(self, enterprise: Enterprise) -> None:
        await self.change_enterprise(enterprise.number, lambda _: enterprise)

    async def change_enterprise(self, number: str, change: Callable[[Enterprise | None], Enterprise]) -> None:
        async with self._changing() as connection:
            row = await connection.fetchrow(SQL["one_enterprise"], number)
            old = _enterprise(row) if row else None
            enterprise = change(old)
            token = enterprise.token.reveal()
            other = await connection.fetchval(SQL["token_owner"], number, token)
            if other is not None:
                raise ConfigError(f"enterprise {number}: enterprise {other} has that token; give each its own")
            values = (
                number,
                enterprise.name,
                token,
                enterprise.bot_token.reveal(),
                enterprise.addresses,
                [secret.reveal() for secret in enterprise.secrets],
                enterprise.require_signature,
            )
            if old is not None and old.bot_token != enterprise.bot_token and old.bot_id == enterprise.bot_id != 0:
                await connection.execute(SQL["renew_bot_token"], old.bot_token.reveal(), enterprise.bot_token.reveal())
            if not await connection.fetchval(SQL["change_enterprise"], *values):
                await connection.execute(SQL["add_enterprise"], *values)
            await connection.execute(ADD_QUEUE, part_of(number), number)

    async def add_subscriber(self, number: str, chat: Chat) -> bool:
        async with self._changing() as connection:
            bot = await connection.fetchval(SQL["bot_of"], number)
            if bot is None:
                raise ConfigError(f"there is no enterprise {number}; add it first")
            if await connection.fetchval(SQL["change_subscriber"], bot, chat.id, chat.name):
                return False
            await connection.execute(SQL["add_subscriber"], bot, chat.id, chat.name)
            return True

    async def remove_subscriber(self, number: str, chat_id: int) -> bool:
        async with self._changing() as connection:
            bot = await connection.fetchval(SQL["bot_of"], number)
            return bool(bot is not None and await connection.fetchval(SQL["remove_subscriber"], bot, chat_id))

    async def mute(self, number: str, chat_id: int, until: datetime | None) -> bool:
        async with self._changing() as connection:
            bot = await connection.fetchval(SQL["bot_of"], number)
            return bool(bot is not None and await connection.fetchval(SQL["mute"], bot, chat_id, until))

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[Any]:
        async with self._pools.take("rest") as connection:
            with translated():
                try:
                    async with connection.transaction():
                        await connection.execute(SQL["lock_directory"])
                        yield connection
                except asyncpg.NotNullViolationError as error:
                    raise ConfigError(
                        f"the column {error.column_name} of {error.table_name} has to be filled in: "
                        "give it a default, or add the row by SQL"
                    ) from None


def _enterprise(row: Any) -> Enterprise:
    return Enterprise(
        number=row["number"],
        name=row["name"],
        token=Secret(row["token"]),
        bot_token=Secret(row["bot_token"]),
        addresses=tuple(row["addresses"]),
        secrets=tuple(Secret(secret) for secret in row["secrets"] if secret),
        require_signature=row["require_signature"],
    )


def _directory(mark: str, enterprises: list[Any], subscribers: list[Any]) -> Directory:
    chats: dict[str, list[Chat]] = {}
    for row in subscribers:
        chats.setdefault(row["bot_token"], []).append(Chat(id=row["tg_id"], name=row["name"], muted_until=row["muted_until"]))
    return Directory(
        mark=mark,
        enterprises={row["number"]: _enterprise(row) for row in enterprises},
        chats={row["number"]: tuple(chats.get(row["bot_token"], ())) for row in enterprises},
    )
