"""The tracer's files: whole lines, one day each, nothing lost to a kill, a full disk or a removed directory."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import callgram
import callgram_tracer
from callgram import Action, ConfigError, Context, Event, Kind, Op, Stage
from callgram.context import Locale
from callgram_tracer import Line, LineError, Settings, Tracer, TraceWriteError, parse_line
from callgram_tracer.files import folder_name

NOON = datetime(2025, 11, 29, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class Desk:
    """A tracer with settings and a clock."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.settings = Settings(directory=str(directory), **({"zone": "UTC"} | settings))
        self.locale = Locale()
        self.directory = directory
        self.tracer = Tracer()
        asyncio.run(self.tracer.startup(self.at(NOON)))

    def at(self, now: datetime) -> Context:
        return Context(now=now, settings=self.settings, locale=self.locale)

    def event(self, name: str, at: datetime = NOON, *, enterprise: str = "0367", now: datetime | None = None) -> None:
        event = Event(enterprise=enterprise, kind=Kind.DIAL, received_at=at, unique_id=name)
        asyncio.run(self.tracer.on_event(self.at(now or at), event))

    def restart(self, now: datetime = NOON) -> None:
        asyncio.run(self.tracer.shutdown(self.at(now)))
        self.tracer = Tracer()
        asyncio.run(self.tracer.startup(self.at(now)))

    def names(self, file: str = "events.log", enterprise: str = "0367") -> list[str]:
        return [line.unique_id for line in read(self.directory / enterprise / file)]

    def files(self, enterprise: str = "0367") -> list[str]:
        return sorted(path.name for path in (self.directory / enterprise).iterdir())


def read(path: Path) -> Iterator[Line]:
    """Whole lines; half ones are left out, as a reader of the trace would."""
    for line in path.read_text("utf-8", "surrogateescape").splitlines(keepends=True):
        try:
            yield parse_line(line)
        except LineError:
            continue


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "call_tracer")
    yield desk
    asyncio.run(desk.tracer.shutdown(desk.at(NOON)))


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process grows past ``size``: a write is cut there, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_events_and_actions_go_to_one_file_in_order(desk: Desk) -> None:
    desk.event("1.1")
    action = Action(
        at=NOON, enterprise="0367", call_id=1, unique_id="1.1", chat_id=5, bot_id=7, stage=Stage.DIAL, op=Op.SEND,
        message_id=9, text="Звонок",
    )  # fmt: skip
    asyncio.run(desk.tracer.on_telegram_action(desk.at(NOON), action))
    assert (desk.directory / "0367" / "events.log").read_text().splitlines() == [
        "2025-11-29 12:00:00,000|AST|dial|1.1|{}",
        "2025-11-29 12:00:00,000|TG|send|5|dial|9|1.1|Звонок",
    ]


def test_a_timer_is_not_an_event_of_a_host(desk: Desk) -> None:
    event = Event(enterprise="0367", kind=Kind.TIMER, received_at=NOON)
    asyncio.run(desk.tracer.on_event(desk.at(NOON), event))
    assert not (desk.directory / "0367").exists()


def test_the_first_line_of_a_day_rotates_at_midnight_of_the_zone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, zone="")
    midnight = datetime(2025, 11, 29, 21, 0, tzinfo=UTC)  # Europe/Minsk, the enterprise's own
    desk.event("before", midnight - timedelta(milliseconds=1))
    desk.event("after", midnight)
    assert desk.names("events.log.2025-11-29") == ["before"]
    assert desk.names() == ["after"]
    asyncio.run(desk.tracer.shutdown(desk.at(NOON)))


def test_a_late_line_goes_to_the_file_of_its_day(desk: Desk) -> None:
    for name, at in [("a", NOON), ("b", NOON + DAY), ("late", NOON), ("c", NOON + DAY), ("later", NOON - DAY)]:
        desk.event(name, at, now=NOON + DAY)
    assert desk.names() == ["b", "c"]
    assert desk.names("events.log.2025-11-29") == ["a", "late"]
    assert desk.names("events.log.2025-11-28") == ["later"]


@pytest.mark.parametrize("first_line", ["", "somebody else's line\n"])
def test_after_a_restart_the_day_is_that_of_the_first_line_or_of_the_last_write(desk: Desk, first_line: str) -> None:
    desk.event("a")
    path = desk.directory / "0367" / "events.log"
    path.write_text(first_line + path.read_text())
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    desk.restart()
    desk.event("b", NOON + DAY)
    assert desk.names("events.log.2025-11-29") == ["a"]
    assert desk.names() == ["b"]


def test_rotating_onto_a_name_that_is_taken_overwrites_nothing(desk: Desk) -> None:
    desk.event("a")
    for name in ("events.log.2025-11-29", "events.log.2025-11-29.1"):
        (desk.directory / "0367" / name).write_text("older\n")
    desk.event("b", NOON + DAY)
    assert desk.files() == ["events.log", *(f"events.log.2025-11-29{end}" for end in ("", ".1", ".2"))]
    assert desk.names("events.log.2025-11-29.2") == ["a"]
    assert (desk.directory / "0367" / "events.log.2025-11-29").read_text() == "older\n"


def test_a_file_from_a_clock_that_was_wrong_is_put_aside(desk: Desk) -> None:
    desk.event("future", NOON + 400 * DAY, now=NOON)
    desk.event("future too", NOON + 400 * DAY, now=NOON)
    desk.event("a")
    desk.event("b")
    assert desk.names() == ["a", "b"]
    assert desk.names("events.log.2027-01-03") == ["future", "future too"]


def test_files_past_the_retention_are_dropped_for_silent_enterprises_too(desk: Desk) -> None:
    desk.event("x", enterprise="silent")
    silent = desk.directory / "silent" / "events.log"
    os.utime(silent, (NOON.timestamp(), NOON.timestamp()))
    for days in range(16):
        desk.event("a", NOON + days * DAY)
    kept = [f"events.log.{(NOON + days * DAY).date()}" for days in range(1, 15)]
    assert desk.files() == ["events.log", *kept]
    assert not silent.parent.exists()


def test_what_is_not_the_tracers_stays(desk: Desk) -> None:
    desk.event("a")
    others = ["events.log.2020-99-99", "events.log.gz", "notes.txt"]
    for name in others:
        path = desk.directory / "0367" / name
        path.write_text("")
        os.utime(path, (0, 0))
    desk.restart(NOON + 400 * DAY)
    assert [name for name in desk.files() if name != "events.log"] == others


def test_a_full_disk_raises_and_the_record_follows_when_there_is_room(desk: Desk) -> None:
    desk.event("a")
    path = desk.directory / "0367" / "events.log"
    size = path.stat().st_size
    for room in (0, 1, 30, size - 1):
        with disk_full_at(path.stat().st_size + room), pytest.raises(TraceWriteError, match="free space"):
            desk.event(f"b{room}")
        desk.event(f"b{room}")
    assert desk.names() == ["a", "b0", "b1", "b30", f"b{size - 1}"]
    assert path.read_bytes().count(b"\x18\n") == 3  # nothing of the record had been written with no room at all


def test_half_a_line_of_an_earlier_run_is_closed_off(desk: Desk) -> None:
    desk.event("a")
    path = desk.directory / "0367" / "events.log"
    path.write_bytes(path.read_bytes() + "2025-11-29 12:00:00,000|TG|send|5|dial|9|1.1|Зво".encode()[:-1])
    desk.restart()
    desk.event("b")
    assert desk.names() == ["a", "b"]


@pytest.mark.parametrize("what", ["", "0367", "0367/events.log"])
def test_what_was_removed_is_made_again(desk: Desk, what: str) -> None:
    desk.event("a")
    gone = desk.directory / what
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    desk.event("b")
    assert desk.names() == ["b"]


def test_a_directory_that_cannot_be_made_is_a_clear_error(desk: Desk) -> None:
    shutil.rmtree(desk.directory)
    desk.directory.write_text("a file in its place")
    with pytest.raises(TraceWriteError, match="restore the directory"):
        desk.event("a")
    desk.directory.unlink()
    desk.event("a")
    assert desk.names() == ["a"]


def test_open_files_are_bounded_and_every_line_arrives(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "trace", max_open_files=2)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(12):
        desk.event(str(number), enterprise=str(number % 4))
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert [desk.names(enterprise=str(n)) for n in range(4)] == [[str(n), str(n + 4), str(n + 8)] for n in range(4)]
    asyncio.run(desk.tracer.shutdown(desk.at(NOON)))
    assert len(os.listdir("/proc/self/fd")) == before


WRITER = """
import asyncio, itertools, sys
from datetime import UTC, datetime
from callgram import Context, Event, Kind
from callgram_tracer import Settings, Tracer

async def write():
    now = datetime(2025, 11, 29, 12, tzinfo=UTC)
    ctx = Context(now=now, settings=Settings(directory=sys.argv[1]))
    tracer = Tracer()
    await tracer.startup(ctx)
    for n in itertools.count():
        await tracer.on_event(ctx, Event(enterprise="0367", kind=Kind.DIAL, received_at=now, unique_id=str(n)))
        print(n, flush=True)

asyncio.run(write())
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    roots = [str(Path(module.__file__ or "").parents[1]) for module in (callgram, callgram_tracer)]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
    )
    assert writer.stdout is not None
    with writer:
        acknowledged = [int(next(writer.stdout)) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
    written = [int(line.unique_id) for line in read(tmp_path / "0367" / "events.log")]
    assert written[: len(acknowledged)] == acknowledged
    assert len(written) <= len(acknowledged) + 1


@pytest.mark.parametrize("number", ["../x", "..", ".", "", "a/b", "/etc", "a\0b", "é", "%2E", "x" * 5000, "\ud800"])
def test_no_number_leaves_the_directory(desk: Desk, number: str) -> None:
    desk.event("a", enterprise=number)
    (folder,) = desk.directory.iterdir()
    assert folder.is_dir()
    assert desk.names(enterprise=folder.name) == ["a"]
    assert [path.name for path in desk.directory.parent.iterdir()] == ["call_tracer"]


@given(st.lists(st.text(st.characters(), max_size=80), unique=True, max_size=5))
def test_different_numbers_have_different_folders(numbers: list[str]) -> None:
    folders = {folder_name(number) for number in numbers}
    assert len(folders) == len(numbers)
    assert all(folder and "." not in folder and "/" not in folder and len(folder) < 255 for folder in folders)


def test_a_plain_number_is_its_own_folder() -> None:
    assert folder_name("0367") == "0367"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        pytest.param({"retention": 1}, "retention", id="unknown key"),
        pytest.param({"retention_days": 0}, "retention_days", id="no retention"),
        pytest.param({"text_limit": -1}, "text_limit", id="negative limit"),
        pytest.param({"max_open_files": 0}, "max_open_files", id="no files"),
        pytest.param({"zone": "Minsk"}, "Europe/Minsk", id="no such zone"),
        pytest.param({"zone": "../etc"}, "Europe/Minsk", id="a path for a zone"),
    ],
)
def test_wrong_settings_are_refused_by_name(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(given, Settings)


def test_a_directory_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"settings\.directory"):
        Desk(tmp_path / "file" / "trace")
