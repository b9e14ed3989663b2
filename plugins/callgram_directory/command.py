"""The command ``callgram directory``: bring names in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callgram import ConfigError, NumberPlan, Store, with_store
from callgram_directory.table import TABLES, BadRow, Row, read_rows

if TYPE_CHECKING:
    from rich.progress import Progress

CHUNK = 1_000  # rows stored at once
SHOWN = 20  # bad rows shown


def make_command(process: Any) -> click.Group:
    """``process``: how the program was started; it knows how each enterprise numbers things."""

    @click.group()
    def directory() -> None:
        """Names of clients, managers and lines."""

    @directory.command("import")
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option("--enterprise", "number", required=True, help="Whose names they are.")
    @click.option("--table", type=click.Choice(TABLES), default="customers", help="Of rows that name none.")
    @click.option("--bad", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows that cannot be used.")
    def import_names(file: Path, number: str, table: str, bad: Path | None) -> None:
        """Bring in the names of FILE, a CSV with the columns number and name, and table if it has several.

        An empty name forgets the number. Exit code 1 if no row can be used.
        """
        plan: NumberPlan = process.plugins.call_settings(number).locale().plan
        with _progress() as progress:
            rows = _read(file, plan, table, progress)
            good = [row for row in rows if isinstance(row, Row)]
            with_store(lambda store: _put(store, number, good, progress))
        refused = [row for row in rows if isinstance(row, BadRow)]
        click.echo(f"{len(good)} names stored for {number}, {len(refused)} rows not used")
        _report(refused, bad)
        sys.exit(0 if good or not refused else 1)

    return directory


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True)


def _read(file: Path, plan: NumberPlan, table: str, progress: Progress) -> list[Row | BadRow]:
    """Most of an import's time: every number is parsed."""
    content = file.read_bytes()
    rows = read_rows(content, plan, table)
    return list(progress.track(rows, total=content.count(b"\n"), description="reading"))


async def _put(store: Store, number: str, rows: Sequence[Row], progress: Progress) -> None:
    if number not in (await store.directory()).enterprises:
        raise ConfigError(f"there is no enterprise {number}; `callgram enterprise list` shows them")
    task = progress.add_task("storing", total=len(rows))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        for table in TABLES:
            names = {row.number: row.name for row in chunk if row.table == table}
            if names:
                await store.put_names(number, table, names)
        progress.advance(task, len(chunk))


def _report(refused: Sequence[BadRow], bad: Path | None) -> None:
    for row in refused[:SHOWN]:
        click.echo(f"  line {row.line}: {row.reason}: {row.text}")
    if len(refused) > SHOWN:
        click.echo(f"  and {len(refused) - SHOWN} more" + ("" if bad else "; --bad FILE writes all of them"))
    if bad is not None:
        bad.write_text("".join(f"{row.line}\t{row.reason}\t{row.text}\n" for row in refused), "utf-8")
