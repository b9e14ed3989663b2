"""Commands about the trace: where the sinks are, sending one back, and the lines of one call from the store or the files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from callgram.cli.admin import show
from callgram.commands import with_store
from callgram.errors import ConfigError, IngestError
from callgram.events import Event, Kind
from callgram.settings import PluginsFile, load
from callgram.store import Store

SINKS = -1  # the lease under which one node feeds the sinks (callgram.service)
ALL = 1_000_000  # code points of a message's text in a line


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def sinks(ctx: click.Context, as_json: bool) -> None:
    """Sinks, which get every event and action: where each is, and how far behind. See also: sinks rewind."""
    if ctx.invoked_subcommand is not None:
        return
    now = datetime.now(UTC)
    rows = with_store(lambda store: _positions(store, _sinks_of_plugins(), now))
    if as_json:
        click.echo(msgspec.json.encode([{"sink": n, "position": p, "lag_s": round(lag, 1)} for n, p, lag in rows]))
        return
    show("sinks", ("name", "position", "behind"), [(n, p or "the beginning", f"{lag:.1f} s") for n, p, lag in rows])


@sinks.command("rewind")
@click.argument("name")
@click.option("--to", "to", required=True, metavar="TIME", help="Such as 2025-11-29T15:26; UTC if it names no zone.")
def sinks_rewind(name: str, to: str) -> None:
    """Have the sink NAME get everything since TIME again. No process may feed the sinks meanwhile: stop serve first."""
    moment = _moment(to)

    async def rewind(store: Store) -> str:
        known = {*await store.cursors(), *_sinks_of_plugins()}
        if name not in known:
            raise ConfigError(f"there is no sink {name!r}; there is {', '.join(sorted(known)) or 'none'}")
        node = "callgram sinks rewind"
        if SINKS not in await store.hold_leases(node, [SINKS], ttl_s=10.0):
            raise ConfigError("a running callgram feeds the sinks, and would go on where it is; stop it, then rewind")
        try:
            cursor = await store.cursor_at(moment)
            await store.save_cursor(name, cursor)
        finally:
            await store.release_leases(node)
        return cursor

    cursor = with_store(rewind)
    click.echo(f"sink {name} goes on from {moment.isoformat(' ', 'seconds')} ({cursor or 'the beginning'})")


@click.command()
@click.argument("unique_id")
@click.option("--enterprise", help="Only of this one; ids are unique per host only.")
@click.option("--files", is_flag=True, help="From the tracer's files alone, rotated ones too; no database is needed.")
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Of the files; the tracer's own if not given."
)
def trace(unique_id: str, enterprise: str | None, files: bool, directory: Path | None) -> None:
    """Print everything about the call of UNIQUE_ID (of any of its channels, or its Linkedid), as lines of a trace file."""
    if files:
        settings = load()
        lines = list(lines_in_files(directory or _directory_of_tracer(settings.plugins), unique_id, settings.plugins))
        if enterprise is not None:
            lines = [line for line in lines if line[0] == enterprise]
    else:
        lines = with_store(lambda store: _lines_in_store(store, unique_id, enterprise))
    if not lines:
        raise ConfigError(f"nothing is known of {unique_id}; it may be past the retention, or not planned yet")
    several = len({number for number, _ in lines}) > 1
    for number, line in lines:
        sys.stdout.write(f"{number}: {line}" if several else line)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--to {text!r} is no time; write it as 2025-11-29T15:26") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sinks_of_plugins() -> tuple[str, ...]:
    from callgram import loader

    plugins = loader.load(load(), lambda outcome: None, tolerant=True)
    return plugins.dispatcher.plugins("on_event", "on_telegram_action")


async def _positions(store: Store, known: Iterable[str], now: datetime) -> list[tuple[str, str, float]]:
    """``[(sink, its place, seconds since the oldest record that it has not taken)]``."""
    cursors = await store.cursors()
    rows = []
    for name in sorted({*cursors, *known}):
        cursor = cursors.get(name, "")
        waiting = await store.trace(cursor, limit=1)
        oldest = waiting[0].item if waiting else None
        at = now if oldest is None else oldest.received_at if isinstance(oldest, Event) else oldest.at
        rows.append((name, cursor, max(0.0, (now - at).total_seconds())))
    return rows


async def _lines_in_store(store: Store, unique_id: str, enterprise: str | None) -> list[tuple[str, str]]:
    from callgram.tracelines import action_line, event_line

    settings = load()
    known = (await store.directory()).enterprises
    found = await store.find_calls([enterprise] if enterprise is not None else list(known), unique_id)
    lines = []
    for number, call in found:
        file = await store.call_file(number, call, limit=100_000)
        zone = settings.plugins.call_settings(number).locale().tz
        for record in file.records if file else ():
            item = record.item
            if not isinstance(item, Event):
                lines.append((number, action_line(item, item.at.astimezone(zone), text_limit=ALL)))
            elif item.kind is not Kind.TIMER:
                lines.append((number, event_line(item, item.received_at.astimezone(zone))))
    return lines


# From the files


def _directory_of_tracer(file: PluginsFile) -> Path:
    entry = next((entry for entry in file.plugin if entry.name == "tracer"), None)
    return Path(str(entry.settings.get("directory", "call_tracer")) if entry else "call_tracer")


def lines_in_files(directory: Path, unique_id: str, file: PluginsFile) -> Iterator[tuple[str, str]]:
    """``(folder, line)`` of the call of ``unique_id`` in every enterprise's files, oldest first. Broken lines are left out.

    The call is put together again from the events in the files, as the planner did.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory; name the tracer's with --directory")
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        wanted = unique_id.encode()
        texts = [path.read_bytes() for path in sorted(folder.glob("events.log*"))]
        lines = [line for text in texts if wanted in text for line in text.decode("utf-8", "replace").splitlines(True)]
        plan = file.call_settings(folder.name).locale().plan
        for line in _of_call(lines, unique_id, plan):
            yield folder.name, line


def _of_call(lines: Iterable[str], unique_id: str, plan: Any) -> list[str]:
    from callgram.calls.book import Book
    from callgram.events import read_event
    from callgram.tracelines import Line, LineError, parse_line

    book, read = Book(plan), []
    owner: dict[int, int] = {}
    for number, text in enumerate(lines, 1):
        try:
            line = parse_line(text)
        except LineError:
            continue
        event: Event | None = None
        if line.source == "AST":
            try:
                at = line.at.replace(tzinfo=UTC)
                event = read_event(Kind(line.what), line.body, enterprise="", received_at=at, event_id=number)
            except (IngestError, ValueError):
                continue
        read.append((number, text, line, event))

    def when(one: tuple[int, str, Line, Event | None]) -> datetime:
        return one[2].at

    read.sort(key=when)
    for number, _, _, event in read:
        if event is None:
            continue
        touch = book.apply(event)
        owner[number] = touch.facts.id
        for absorbed in touch.absorbed:
            owner = {key: touch.facts.id if call == absorbed else call for key, call in owner.items()}
    calls = {owner[number] for number, _, _, event in read if event and unique_id in {event.unique_id, event.linked_id}}
    of_call = [event for number, _, _, event in read if event and owner[number] in calls]
    channels = {uid for event in of_call for uid in (event.unique_id, event.linked_id) if uid} | {unique_id}
    return [
        text for number, text, line, event in read if (owner[number] in calls if event else line.unique_id in channels)
    ]
