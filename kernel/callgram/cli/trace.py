"""Commands about the trace: where the sinks are, sending one back, and the lines of one call from the store or the files."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from callgram.cli.admin import show
from callgram.commands import with_store
from callgram.errors import ConfigError, IngestError
from callgram.events import Event, Kind, read_event
from callgram.numbers import NumberPlan
from callgram.settings import PluginsFile, load
from callgram.store import Store
from callgram.tracelines import Line, action_line, escape, event_line, parse_line

ALL = 1_000_000  # code points of a message's text in a line
AROUND = timedelta(minutes=10)


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
@click.option("--to", "to", required=True, metavar="TIME", help="Such as 2025-11-29T15:26, by the zone of plugins.toml.")
def sinks_rewind(name: str, to: str) -> None:
    """Have the sink NAME get everything since TIME again, beside a running serve or without one.

    A later TIME than where the sink is leaves records out: so one that the plugin will never take is passed by."""
    moment = _moment(to, load().plugins.defaults.locale().tz)

    async def rewind(store: Store) -> str:
        known = {*await store.cursors(), *_sinks_of_plugins()}
        if name not in known:
            raise ConfigError(f"there is no sink {name!r}; there is {', '.join(sorted(known)) or 'none'}")
        cursor = await store.cursor_at(moment)
        await store.save_cursor(name, cursor)
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


def _moment(text: str, zone: tzinfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--to {text!r} is no time; write it as 2025-11-29T15:26") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


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
        at = await store.waiting_since(cursor)
        rows.append((name, cursor, max(0.0, (now - at).total_seconds()) if at else 0.0))
    return rows


async def _lines_in_store(store: Store, unique_id: str, enterprise: str | None) -> list[tuple[str, str]]:
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
            elif item.posted:
                lines.append((number, event_line(item, item.received_at.astimezone(zone))))
    return lines


# From the files


def _directory_of_tracer(file: PluginsFile) -> Path:
    entry = next((entry for entry in file.plugin if entry.name == "tracer"), None)
    return Path(str(entry.settings.get("directory", "call_tracer")) if entry else "call_tracer")


def lines_in_files(directory: Path, unique_id: str, file: PluginsFile) -> Iterator[tuple[str, str]]:
    """``(folder, line)`` of the call of ``unique_id`` in every enterprise's files, oldest first. Broken lines are left out.

    The call is put together again from the events in the files, as the planner did: from those around the time of all
    that is tied to ``unique_id`` by an id, for ties without one are a matter of minutes.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory; name the tracer's with --directory")
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        paths = [path for path in sorted(folder.glob("events.log*")) if path.stat().st_size]
        with ExitStack() as stack:
            texts = [_mapped(stack, path) for path in paths]
            times = list(_times_of(texts, unique_id))
            if not times:
                continue
            first, last = min(times) - AROUND, max(times) + AROUND
            lines = [line for text in texts for line in _between(text, first, last)]
        plan = file.call_settings(folder.name).locale().plan
        for line in _of_call(lines, unique_id, plan):
            yield folder.name, line


def _mapped(stack: ExitStack, path: Path) -> mmap.mmap:
    opened = stack.enter_context(path.open("rb"))
    return stack.enter_context(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _times_of(texts: list[mmap.mmap], unique_id: str) -> Iterator[datetime]:
    """When the lines were written that ``unique_id``, or an id that comes with it, is in. By search: days are long."""
    from callgram.calls.keys import strong_keys

    known, waiting = {unique_id}, [unique_id]
    while waiting:
        wanted = waiting.pop()
        for line in (line for text in texts for line in _lines_with(text, wanted)):
            found = _read(line)
            if found is None:
                continue
            at, event = found.line.at, found.event
            ids = {key.partition(":")[2] for key in strong_keys(event)} if event else {found.line.unique_id}
            if wanted in ids:  # not only as a part of another
                yield at
                waiting += ids - known
                known |= ids


def _lines_with(text: mmap.mmap, wanted: str) -> Iterator[str]:
    needle, place = escape(wanted).encode("utf-8", "surrogateescape"), 0
    while (hit := text.find(needle, place)) >= 0:
        end = text.find(b"\n", hit) + 1
        if not end:  # still on its way
            return
        yield text[text.rfind(b"\n", 0, hit) + 1 : end].decode("utf-8", "replace")
        place = end


def _between(text: mmap.mmap, first: datetime, last: datetime) -> Iterator[str]:
    begin, end = (str(at).encode()[:19] for at in (first, last))  # as lines begin
    text.seek(0)
    for line in iter(text.readline, b""):
        if begin <= line[:19] <= end and line.endswith(b"\n"):
            yield line.decode("utf-8", "replace")


class _Read(NamedTuple):
    """A line that was read, and the event where it is one."""

    line: Line
    event: Event | None


def _read(text: str, number: int = 0) -> _Read | None:
    """``None``: not a whole line, or of an event that cannot be read any more."""
    try:
        line = parse_line(text)
        if line.source != "AST":
            return _Read(line, None)
        at = line.at.replace(tzinfo=UTC)
        return _Read(line, read_event(Kind(line.what), line.body, enterprise="", received_at=at, event_id=number))
    except (IngestError, ValueError):
        return None


def _of_call(texts: Iterable[str], unique_id: str, plan: NumberPlan) -> list[str]:
    from callgram.calls.book import Book

    read = [(number, text, found) for number, text in enumerate(texts, 1) if (found := _read(text, number))]
    read.sort(key=lambda one: one[2].line.at)
    book, owner = Book(plan), dict[int, int]()
    for number, _, (_, event) in read:
        if event is None:
            continue
        touch = book.apply(event)
        owner[number] = touch.facts.id
        for absorbed in touch.absorbed:
            owner = {key: touch.facts.id if call == absorbed else call for key, call in owner.items()}
    events = [(number, event) for number, _, (_, event) in read if event]
    calls = {owner[number] for number, event in events if unique_id in {event.unique_id, event.linked_id}}
    channels = {uid for number, event in events if owner[number] in calls for uid in (event.unique_id, event.linked_id)}
    channels = {unique_id, *channels} - {""}
    return [
        text
        for number, text, (line, event) in read
        if (owner[number] in calls if event else line.unique_id in channels)
    ]
