"""Table: names from a CSV file, read tolerantly, with what is wrong with each row that cannot be used. Pure but for reading."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import msgspec

from callgram import ConfigError, NameTable, NumberPlan

TABLES: tuple[NameTable, ...] = ("customers", "extensions", "lines")
SPELLINGS = {
    "number": ("number", "phone", "номер", "телефон", "extension", "line"),
    "name": ("name", "имя", "название", "фио"),
    "table": ("table", "таблица", "kind"),
}
MAX_NAME = 200
MAX_LINES = 5  # of one row


class Row(msgspec.Struct, frozen=True):
    """A row that can be used; ``number`` is canonical in the table ``customers``. An empty ``name`` forgets the number."""

    table: str
    number: str
    name: str


class BadRow(msgspec.Struct, frozen=True):
    """``line`` is where it begins in the file, from 1."""

    line: int
    reason: str
    text: str


def read_rows(content: bytes, plan: NumberPlan, table: str = "customers") -> Iterator[Row | BadRow]:
    """The rows of a CSV file with a header: ``number``, ``name`` and, if it has one, ``table`` (else ``table`` counts).

    UTF-8 (a byte order mark is fine) or Windows-1251; separated by comma, semicolon or tab. Raises ConfigError when the
    header has no number or name.
    """
    text = _decode(content)
    header, _, _ = text.partition("\n")
    separator = max(",;\t", key=header.count)
    lines = io.StringIO(text, newline="").readlines()
    places = _places([cell.strip().lower() for cell in next(csv.reader(lines[:1], delimiter=separator), [])])
    at = 1
    while at < len(lines):
        row, n_lines = _cells(lines[at : at + MAX_LINES], separator)
        if row is None:
            yield BadRow(at + 1, "not CSV", lines[at][:100])
        elif any(cell.strip() for cell in row):
            yield _read(row, places, at + 1, plan, table)
        at += n_lines


def _cells(lines: list[str], separator: str) -> tuple[list[str] | None, int]:
    """The cells of the row that begins ``lines``, and how many of them it takes. A quote that is not closed soon is a
    sign of its line, and doesn't swallow the rest of the file."""
    for n_lines in range(1, len(lines) + 1):
        try:
            return next(csv.reader(lines[:n_lines], delimiter=separator, strict=True)), n_lines
        except csv.Error:
            continue
    try:
        return next(csv.reader(lines[:1], delimiter=separator)), 1
    except csv.Error:
        return None, 1


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1251", "replace")


def _places(header: list[str]) -> dict[str, int]:
    places = {
        field: next(header.index(spelling) for spelling in spellings if spelling in header)
        for field, spellings in SPELLINGS.items()
        if any(spelling in header for spelling in spellings)
    }
    missing = {"number", "name"} - places.keys()
    if missing:
        raise ConfigError(f"the first line names no column {' and no '.join(sorted(missing))}; begin with: number,name")
    return places


def _read(row: list[str], places: dict[str, int], line: int, plan: NumberPlan, table: str) -> Row | BadRow:
    cells = {field: row[place].strip() if place < len(row) else "" for field, place in places.items()}
    chosen = cells.get("table", "").lower() or table
    text = ", ".join(row)[:100]
    if chosen not in TABLES:
        return BadRow(line, f"no such table; use {', '.join(TABLES)}", text)
    if "name" in places and places["name"] >= len(row):
        return BadRow(line, "too few columns", text)
    number = plan.canonical(cells["number"]) if chosen == "customers" else cells["number"]
    if not number or (chosen == "customers" and not number.isdigit()):
        return BadRow(line, "no number", text)
    if len(cells["name"]) > MAX_NAME:
        return BadRow(line, f"the name has more than {MAX_NAME} characters", text)
    return Row(chosen, number.replace("\0", ""), " ".join(cells["name"].replace("\0", "").split()))
