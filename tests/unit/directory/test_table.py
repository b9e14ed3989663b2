"""CSV files as people really have them, and rows that cannot be used."""

from __future__ import annotations

import pytest

from callgram import ConfigError, NumberPlan
from callgram_directory.table import BadRow, Row, read_rows

PLAN = NumberPlan()


def rows(text: str, encoding: str = "utf-8", table: str = "customers") -> list[Row | BadRow]:
    return list(read_rows(text.encode(encoding), PLAN, table))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_as_excel_and_others_write_it(encoding: str, separator: str) -> None:
    text = f"номер{separator}имя\r\n+375 (29) 625-40-70{separator}Иванов  Иван\r\n"
    assert rows(text, encoding) == [Row("customers", "375296254070", "Иванов Иван")]


def test_a_file_may_hold_all_tables() -> None:
    text = "table,number,name\ncustomers,80296254070,Иванов\nextensions,151,Петров\nlines,0001363,Офис\n"
    assert rows(text) == [
        Row("customers", "375296254070", "Иванов"),
        Row("extensions", "151", "Петров"),
        Row("lines", "0001363", "Офис"),
    ]


def test_an_empty_name_forgets_the_number() -> None:
    assert rows("number,name\n151,\n", table="extensions") == [Row("extensions", "151", "")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(",Иванов", "no number", id="no number"),
        pytest.param("anonymous,Иванов", "no number", id="hidden"),
        pytest.param("375296254070", "too few columns", id="short"),
        pytest.param("375296254070," + "ы" * 201, "the name has more than 200 characters", id="long"),
    ],
)
def test_a_row_that_cannot_be_used_says_why_and_where(line: str, reason: str) -> None:
    (bad,) = rows(f"number,name\n{line}\n")
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason) == (2, reason)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param('1,"Иванов', id="a quote that is not closed"),
        pytest.param('1,"Иванов" Иван', id="text behind a quote"),
        pytest.param('1,Труба 5"', id="inches"),
        pytest.param("1," + "x" * 200_000, id="a field past the limit of csv"),
        pytest.param('1,"' + "x" * 200_000, id="and with a quote that is not closed"),
        pytest.param("1\0,\0", id="NUL"),
    ],
)
def test_a_broken_row_takes_no_other_with_it(broken: str) -> None:
    found = rows(f"number,name\n2,Б\n{broken}\n" + "".join(f"{n},В\n" for n in range(3, 40)), table="extensions")
    assert [row.number for row in found if isinstance(row, Row) and row.number != "1"] == [str(n) for n in range(2, 40)]
    assert all(row.line == 3 for row in found if isinstance(row, BadRow))


def test_a_name_may_have_lines_of_its_own() -> None:
    assert rows('number,name\n1,"Рога\nи копыта"\n2,Б\n', table="lines") == [
        Row("lines", "1", "Рога и копыта"),
        Row("lines", "2", "Б"),
    ]


def test_an_unknown_table_is_a_bad_row() -> None:
    (bad,) = rows("table,number,name\nfriends,1,A\n")
    assert isinstance(bad, BadRow)


def test_a_file_without_the_columns_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="begin with: number,name"):
        rows("375296254070,Иванов\n")
