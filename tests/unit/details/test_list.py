"""The list of calls as CSV: to its end through short pages, and cut where it says so."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from callgram import Enrichment
from callgram.calls.book import Book
from callgram.context import Directory, Locale
from callgram.reading import CallFilter, CallPage, Listed
from callgram.testing import lab
from callgram_details import Details, lists, page
from callgram_details.access import Reader
from callgram_details.briefs import brief_of
from callgram_details.wording import Wording

LOCALE = Locale()
SCENARIO = Path(__file__).parents[2] / "data" / "scenarios" / "incoming-answered.json"


class Pages:
    """A store of ``n_calls`` calls that finds at most ``per_page`` of them at a time, as behind a filter that finds little."""

    def __init__(self, n_calls: int, per_page: int) -> None:
        book = Book(LOCALE.plan)
        for event in lab(Details).events(SCENARIO):
            book.apply(event)
        (self._facts,) = book.calls.values()
        self._n_calls, self._per_page = n_calls, per_page

    async def list_calls(self, wanted: CallFilter, *, after: str = "", limit: int = 50) -> CallPage:
        start = int(after or 0)
        end = min(start + self._per_page, start + limit, self._n_calls)
        ids = range(start + 1, end + 1)
        calls = [Listed(facts=msgspec.structs.replace(self._facts, id=number), n_chats=1, n_shown=1) for number in ids]
        return CallPage(calls=tuple(calls), next=str(end) if end < self._n_calls else "")


@pytest.mark.parametrize(
    ("n_calls", "per_page", "n_rows", "cut"),
    [
        pytest.param(70, 1, 70, False, id="more than twenty short pages"),
        pytest.param(0, 1, 0, False, id="none"),
        pytest.param(300, 100, 300, False, id="as many as there may be"),
        pytest.param(301, 100, 300, True, id="one more"),
        pytest.param(900, 99, 300, True, id="more, of odd pages"),
    ],
)
def test_the_csv_has_every_call_or_says_that_it_is_cut(
    n_calls: int, per_page: int, n_rows: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MOST_CSV", 300)
    site: Any = SimpleNamespace(store=Pages(n_calls, per_page), locale=lambda _: LOCALE)
    view = page.View(
        reader=Reader(enterprises=None), words=Wording("en", LOCALE.tz), locale=LOCALE, directory=Directory(), query=()
    )
    rows = list(csv.reader(io.StringIO(asyncio.run(lists._csv(site, view, lists.Asked())))))[1:]
    assert [row[0] for row in rows if len(row) == 1] == ["There are more calls than these 300: narrow the filter"] * cut
    assert len(rows) - cut == n_rows


def test_a_line_of_the_list_has_the_names_that_are_known() -> None:
    found = Enrichment(names={"375296254070": "Ольга Климова", "151": "Петрова"})
    (facts,) = [one.facts for one in asyncio.run(Pages(1, 1).list_calls(CallFilter())).calls]
    one = Listed(facts=msgspec.structs.replace(facts, found=found), n_chats=1, n_shown=1)
    brief = brief_of(one, Wording("en", LOCALE.tz), LOCALE.plan)
    assert (brief.client, brief.who) == ("+375 (29) 625-40-70 Ольга Климова", "151 Петрова")
    assert brief.result.startswith("Answered by 151 Петрова, ")
