"""Trace files on disk: a folder for each enterprise with ``events.log`` and, for past days, ``events.log.2025-11-29``.

Every line is one append that has left the process when :meth:`DayFiles.append` returns, so a killed process loses
nothing that was acknowledged (a power cut may: there is no fsync). Nothing that was written is ever overwritten or
truncated; files past the retention are deleted. One process writes a directory, and nothing else is kept in it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import msgspec
from loguru import logger

from callgram import CallgramError
from callgram_tracer.lines import HALF

CURRENT = "events.log"
_PAST = re.compile(r"events\.log\.(\d{4}-\d\d-\d\d)(?:\.\d+)?", re.ASCII)
_REPAIR = f"{HALF}\n".encode()
_MAX_NAME = 200  # bytes; file systems take 255


class TraceWriteError(CallgramError):
    """The trace cannot be written: see to the disk. The same record is tried again."""


class _File(msgspec.Struct, kw_only=True):
    """An open file. ``day`` is that of its first line, ``None`` while it is empty; ``whole``: no half line ends it."""

    fd: int
    identity: tuple[int, int]
    day: date | None
    whole: bool


class DayFiles:
    """The trace files below ``root``. At most ``max_open`` are open, the least recently written is closed first."""

    def __init__(self, root: Path, *, max_open: int, retention_days: int) -> None:
        self._root = root
        self._max_open = max_open
        self._retention = timedelta(days=retention_days)
        self._open: OrderedDict[str, _File] = OrderedDict()
        self._swept = date.min

    def append(self, enterprise: str, line: bytes, *, at: datetime, today: date) -> None:
        """Append ``line``, newline included, to the file of its day. ``at`` is aware, in the zone of the enterprise.

        The first line of a new day rotates. A line of a past day (events of one second are committed in any order) goes
        to that day's file, so that each file has the lines of its day. A current file that is days ahead of ``today``
        comes from a clock that was wrong: it is put aside under its own date.

        Raises:
            TraceWriteError: the line is not written, or only a part that readers refuse. Append it again.
        """
        folder = folder_name(enterprise)
        try:
            self._append(folder, line, at, today)
        except OSError as error:
            self._forget(folder)  # what did get written is looked at when it is opened again
            raise TraceWriteError(
                f"cannot write {self._root / folder}: {error.strerror}; free space or restore the directory, "
                "the trace then goes on where it stopped"
            ) from error
        if today > self._swept:
            self.sweep(today)

    def sweep(self, today: date) -> None:
        """Delete the files of all enterprises whose day is more than the retention before ``today``.

        A file that cannot be deleted is logged and tried again the next day: old files must not hold up new lines.
        """
        self._swept = today
        try:
            for entry in list(os.scandir(self._root)):
                if entry.is_dir(follow_symlinks=False):
                    self._sweep_folder(entry.name, today - self._retention)
        except OSError as error:
            logger.warning("old trace files below {} cannot be deleted: {}", self._root, error.strerror)

    def close(self) -> None:
        while self._open:
            self._forget(next(iter(self._open)))

    def _append(self, folder: str, line: bytes, at: datetime, today: date) -> None:
        file = self._current(folder, at)
        day = at.date()
        current = file.day or day
        if current < day or current > max(day, today + timedelta(days=1)):
            self._rotate(folder, current)
            file, current = self._current(folder, at), day
        if day < current:
            self._append_late(self._root / folder / f"{CURRENT}.{day}", line, at)
        else:
            _write(file, line)
            file.day = day

    def _append_late(self, path: Path, line: bytes, at: datetime) -> None:
        file = _open(path, at)
        try:
            _write(file, line)
        finally:
            os.close(file.fd)

    def _current(self, folder: str, at: datetime) -> _File:
        """The open ``events.log``; opened anew when it, or a directory above, was removed or moved away meanwhile."""
        path = self._root / folder / CURRENT
        file = self._open.get(folder)
        if file is not None:
            if file.identity == _identity(path):
                self._open.move_to_end(folder)
                return file
            self._forget(folder)
        while len(self._open) >= self._max_open:
            self._forget(next(iter(self._open)))
        file = self._open[folder] = _open(path, at)
        return file

    def _rotate(self, folder: str, day: date) -> None:
        self._forget(folder)
        target = self._root / folder / f"{CURRENT}.{day}"
        n_taken = 0
        while os.path.lexists(target):
            n_taken += 1
            target = target.with_name(f"{CURRENT}.{day}.{n_taken}")
        (self._root / folder / CURRENT).rename(target)

    def _sweep_folder(self, folder: str, oldest: date) -> None:
        path = self._root / folder
        for entry in list(os.scandir(path)):
            if _last_day(entry) < oldest:
                Path(entry.path).unlink()
                with suppress(OSError):  # not empty, as a rule
                    path.rmdir()

    def _forget(self, folder: str) -> None:
        file = self._open.pop(folder, None)
        if file is not None:
            os.close(file.fd)


def folder_name(enterprise: str) -> str:
    """A folder name for an enterprise's number: itself where it is plain, else percent-encoded, a long one by digest.

    Different numbers have different names, none has a dot or a slash.
    """
    name = quote(enterprise, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(name) > _MAX_NAME:
        digest = hashlib.sha256(enterprise.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{name[:64]}%~{digest}"  # %~ is no percent-encoding, so no short name is like it
    return name or "%"


def _last_day(entry: os.DirEntry[str]) -> date:
    """The day of a file's lines by its name; of a current file (a silent enterprise) by its last write."""
    past = _PAST.fullmatch(entry.name)
    if past:
        with suppress(ValueError):  # a date that is none
            return date.fromisoformat(past.group(1))
    if entry.name == CURRENT:
        return datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_mtime, UTC).date()
    return date.max  # not ours


def _open(path: Path, at: datetime) -> _File:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        stat = os.fstat(fd)
        return _File(
            fd=fd,
            identity=(stat.st_dev, stat.st_ino),
            day=_first_day(fd, stat, at) if stat.st_size else None,
            whole=not stat.st_size or os.pread(fd, 1, stat.st_size - 1) == b"\n",
        )
    except OSError:
        os.close(fd)
        raise


def _first_day(fd: int, stat: os.stat_result, at: datetime) -> date:
    try:
        return date.fromisoformat(os.pread(fd, 10, 0).decode("ascii"))
    except ValueError:  # somebody else's first line
        return datetime.fromtimestamp(stat.st_mtime, at.tzinfo).date()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (stat.st_dev, stat.st_ino)


def _write(file: _File, line: bytes) -> None:
    """One append. A disk that fills up takes a part of a line; the next write closes that part off on its own line."""
    left = line if file.whole else _REPAIR + line
    file.whole = False
    while left:
        left = left[os.write(file.fd, left) :]
    file.whole = True
