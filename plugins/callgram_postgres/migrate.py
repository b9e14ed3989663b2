"""Migrations: ``migrations/0001_name.sql`` and on, each applied once, in order, all in one transaction under a lock.

Expand first, contract a release later: an older callgram on the same database must go on working, so a database that
knows more migrations than this release is fine.
"""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries

SQL = queries("house")
RESTORED = ("restored_events", "restored_actions", "restored_decisions", "restored_cursors")


def migrations() -> dict[int, Path]:
    """The shipped migrations, ``{number: file}``, in order."""
    files = Path(__file__).with_name("migrations").glob("[0-9]*.sql")
    return {int(file.name.partition("_")[0]): file for file in sorted(files)}


async def migrate(pools: Pools) -> None:
    """Bring the database to this release, also one that was restored from another server's dump.

    Whoever comes second waits, and finds everything done.
    """
    async with pools.take("rest") as connection:
        with translated():
            async with connection.transaction():
                await connection.execute(SQL["migration_lock"])
                await connection.execute(SQL["make_migrations_table"])
                applied = {row["number"] for row in await connection.fetch(SQL["applied_migrations"])}
                for number, file in migrations().items():
                    if number not in applied:
                        await connection.execute(file.read_text(encoding="utf-8"), timeout=3600)
                        await connection.execute(SQL["note_migration"], number, file.stem)
                        logger.info("migrated the database: {}", file.stem)
                for name in RESTORED:
                    await connection.execute(SQL[name], timeout=3600)
