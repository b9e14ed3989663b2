"""``callgram directory import``: what it stores, what it reports, and that it shows how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from callgram import ConfigError, Enterprise, Secret
from callgram.context import Locale
from callgram.testing.memory import MemoryStore
from callgram_directory import command

ROWS = "номер;имя\n+375 (29) 625-40-70;Иванов\nanonymous;Никто\n80296254071;Петров\n"


class Bars:
    """Stands in for rich's Progress; ``done`` is ``{what: (rows done, rows in all)}``."""

    def __init__(self) -> None:
        self.done: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None: ...

    def track(self, rows: Iterable[Any], *, total: int, description: str) -> Iterator[Any]:
        for n, row in enumerate(rows, 1):
            self.done[description] = (n, total)
            yield row

    def add_task(self, what: str, *, total: int) -> str:
        self.done[what] = (0, total)
        return what

    def advance(self, what: str, by: int) -> None:
        self.done[what] = (self.done[what][0] + by, self.done[what][1])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    fresh = MemoryStore()
    office = Enterprise(number="0367", name="Office", token=Secret("375290000001"), bot_token=Secret("7:x"))
    asyncio.run(fresh.put_enterprise(office))
    monkeypatch.setattr(command, "with_store", lambda work: asyncio.run(work(fresh)))
    return fresh


def imported(text: str, directory: Path, *options: str, number: str = "0367") -> Result:
    file = directory / "names.csv"
    file.write_text(text, "utf-8")
    settings = SimpleNamespace(locale=Locale)
    process = SimpleNamespace(plugins=SimpleNamespace(call_settings=lambda number: settings))
    return CliRunner().invoke(command.make_command(process), ["import", str(file), "--enterprise", number, *options])


def test_names_are_stored_by_canonical_number_and_bad_rows_are_reported(store: MemoryStore, tmp_path: Path) -> None:
    result = imported(ROWS, tmp_path)
    assert result.exit_code == 0
    assert "2 names stored for 0367, 1 rows not used" in result.output
    assert "line 3: no number: anonymous, Никто" in result.output
    numbers = ["375296254070", "375296254071"]
    assert asyncio.run(store.names("0367", "customers", numbers)) == {numbers[0]: "Иванов", numbers[1]: "Петров"}


def test_all_bad_rows_are_written_where_one_wants_them(store: MemoryStore, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    result = imported("number,name\n" + "x\n" * 30 + "1,A\n", tmp_path, "--bad", str(bad))
    assert "and 10 more" in result.output
    assert bad.read_text("utf-8").splitlines() == [f"{line}\ttoo few columns\tx" for line in range(2, 32)]


def test_a_file_without_one_good_row_fails(store: MemoryStore, tmp_path: Path) -> None:
    assert imported("number,name\nx\n", tmp_path).exit_code == 1


def test_an_unknown_enterprise_is_refused_with_the_remedy(store: MemoryStore, tmp_path: Path) -> None:
    result = imported(ROWS, tmp_path, number="9999")
    assert isinstance(result.exception, ConfigError)
    assert "`callgram enterprise list`" in str(result.exception)


def test_it_shows_how_far_it_is_while_it_reads_and_while_it_stores(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = Bars()
    monkeypatch.setattr(command, "_progress", lambda: bars)
    imported("number,name\n" + "".join(f"37529{n:07},A\n" for n in range(2_500)) + "x\n", tmp_path)
    assert bars.done == {"reading": (2_501, 2_502), "storing": (2_500, 2_500)}
