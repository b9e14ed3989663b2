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


def test_an_unknown_table_is_a_bad_row() -> None:
    (bad,) = rows("table,number,name\nfriends,1,A\n")
    assert isinstance(bad, BadRow)


def test_a_file_without_the_columns_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="begin with: number,name"):
        rows("375296254070,Иванов\n")
