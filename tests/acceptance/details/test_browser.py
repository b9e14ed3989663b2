"""The call page in a real browser: every recorded shape opens, shows every record once, and complains of nothing.

Needs Chromium at /usr/bin/chromium (or CALLGRAM_CHROMIUM); CALLGRAM_NO_BROWSER=1 leaves these tests out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CALLGRAM_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = [path.stem for path in sorted((Path(__file__).parents[2] / "data" / "scenarios").glob("*.json"))]
pytestmark = pytest.mark.skipif(
    os.environ.get("CALLGRAM_NO_BROWSER") == "1" or not Path(CHROMIUM).exists(), reason="no browser"
)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """``opened(url, **context)``: a page, which must not have complained by the end of the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(url: str, **options: Any) -> Any:
        home = url.partition("/call")[0]
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("a script ran"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(home) or complaints.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("script", [True, False], ids=["scripts", "no scripts"])
@pytest.mark.parametrize("name", NAMES)
def test_every_shape_opens_and_shows_every_record_once(site: Any, opened: Open, name: str, script: bool) -> None:
    shape = site.shapes[name]
    page = opened(site.page(shape), java_script_enabled=script)
    listed = page.locator("[data-row]").evaluate_all("rows => rows.map(row => row.dataset.row)")
    drawn = page.locator("svg [data-mark]").evaluate_all("marks => marks.map(mark => mark.dataset.mark)")
    assert len(listed) == len(set(listed)) == shape.n_records
    assert drawn == listed
    assert page.locator("[data-row]").evaluate_all("rows => rows.every(row => row.checkVisibility())")
    assert page.locator("h1").inner_text()
    assert page.locator("svg.timeline").is_visible()


@pytest.mark.parametrize(
    "viewport", [{"width": 390, "height": 844}, {"width": 1280, "height": 900}], ids=["phone", "desktop"]
)
def test_nothing_hangs_over_the_edge(site: Any, opened: Open, viewport: dict[str, int]) -> None:
    page = opened(site.page(site.shapes["incoming-attended-transfer"]), viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_without_scripts_a_row_opens_a_clock_turns_and_every_moment_is_there(site: Any, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]), java_script_enabled=False)
    row = page.locator(".row.dial").first
    row.locator("summary").click()
    body = row.locator("pre")
    assert body.is_visible()
    assert '"Token": "***"' in body.inner_text()
    page.locator("label[for=clock-rel]").click()
    assert row.locator(".rel").is_visible()
    assert not row.locator(".abs").is_visible()
    moments = page.locator(".phone").first.locator(".moments > li")
    assert moments.count() > 3
    assert all(moment.is_visible() for moment in moments.all())


def test_the_slider_goes_back_in_time(site: Any, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]))
    bubbles = page.locator(".moments > li:visible .bubble")
    assert all("HANGUP" in text for text in bubbles.all_inner_texts())
    page.locator("#slider").fill("0")
    assert "START" in bubbles.first.inner_text() or "DIAL" in bubbles.first.inner_text()
    assert page.locator("#cursor").get_attribute("y") != "-10"


def test_a_mark_opens_its_row_and_lights_its_causes(site: Any, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]))
    mark = page.locator("svg .mark.dial").first
    mark.hover()
    assert page.locator(".cause.on").count() > 0
    mark.click()
    key = mark.get_attribute("data-mark")
    page.locator(f"#{key} details[open]").wait_for()
    assert page.locator(f"#{key} pre").is_visible()


def test_an_event_is_copied_as_curl_without_its_token(site: Any, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]), permissions=["clipboard-read", "clipboard-write"])
    row = page.locator(".row.start").first
    row.locator("summary").click()
    row.locator("button.copy").click()
    page.locator(".notice").wait_for()
    text = page.evaluate("navigator.clipboard.readText()")
    assert re.match(
        r"curl -X POST 'http://127\.0\.0\.1:\d+/start' -H 'Content-Type: application/json' --data-binary '\{", text
    )
    assert '"Token": "***"' in text


def test_both_languages_are_a_click_away(site: Any, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-missed"]))
    assert "Пропущен" in page.locator("h1").inner_text()
    page.locator("a[hreflang=en]").click()
    assert "Missed" in page.locator("h1").inner_text()
    assert page.locator("html").get_attribute("lang") == "en"


def test_hostile_names_stay_text_and_a_live_call_lives_on(site: Any, opened: Open) -> None:
    shape = site.live
    page = opened(site.page(shape))
    assert page.locator(".badge.live").count() == 1
    assert "<img src=x onerror=alert(1)>" in " ".join(page.locator(".phone h3").all_inner_texts())
    assert page.locator("img, iframe").count() == 0
    page.locator(".row.start summary").click()
    told = {"CallType": 0, "Phone": "375296254070"}
    site.post(shape, "dial", UniqueId=shape.unique_id, Extensions=["150", "151"], **told)
    page.locator(".row.dial").first.wait_for()
    assert page.locator(".row.start pre").is_visible()
    assert "Звонит: 150, 151" in page.locator("h1").inner_text()
    site.post(shape, "hangup", UniqueId=shape.unique_id, CallStatus="0", Extensions=[""], **told)
    page.locator("h1", has_text="Пропущен").wait_for()


def test_an_operator_logs_in_looks_and_logs_out(site: Any, opened: Open) -> None:
    page = opened(f"{site.url}/calls")
    page.fill("[name=login]", "anna")
    page.fill("[name=password]", "correct horse battery")
    page.locator("form button").click()
    page.locator("table.calls").first.wait_for()
    page.select_option("[name=result]", "missed")
    page.locator(".filter button").click()
    page.wait_for_url("**result=missed**")
    page.locator("table.calls").last.locator("tbody a").first.click()
    page.locator(".head.missed").wait_for()
    page.go_back()
    page.locator(".out button").click()
    page.wait_for_url("**/calls/login")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_problem(site: Any, opened: Open, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(f"{site.url}/calls", color_scheme=scheme, bypass_csp=True)  # axe is a script of ours, not of the page
    serious = [(page.url, found["id"]) for found in axe.run(page).response["violations"]]
    page.fill("[name=login]", "anna")
    page.fill("[name=password]", "correct horse battery")
    page.locator("form button").click()
    page.wait_for_url("**/calls")
    shape = site.shapes["incoming-attended-transfer"]
    for path in ("/calls", f"/call/details/{shape.unique_id}?e={shape.enterprise}"):
        page.goto(site.url + path)
        for summary in page.locator(".row.dial summary, .row.edit summary, .row.delete summary").all():
            summary.click()
        found = axe.run(page).response["violations"]
        serious += [(path, one["id"]) for one in found if one["impact"] in {"serious", "critical"}]
    assert serious == []
