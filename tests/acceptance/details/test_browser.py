"""The call page in a real browser: every recorded shape opens, shows every record once, and complains of nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ..browser import Open
from .conftest import PASSWORD, RECORDED, SCENARIOS, Shape, Site

PHONE = {"width": 390, "height": 844}


def look_at(page: Any, shape: Shape) -> None:
    listed = page.locator(".rows > li").evaluate_all("rows => rows.map(row => row.id)")
    drawn = page.locator("svg .marks > a").evaluate_all("marks => marks.map(mark => mark.getAttribute('href'))")
    assert len(listed) == len(set(listed)) == shape.n_records
    assert drawn == [f"#{key}" for key in listed]
    assert page.locator(".rows > li").evaluate_all("rows => rows.every(row => row.checkVisibility())")
    assert page.locator("h1").inner_text()
    assert page.locator("svg.timeline").is_visible()


@pytest.mark.parametrize("name", RECORDED)
def test_every_shape_opens_shows_every_record_once_and_fits_a_phone(site: Site, opened: Open, name: str) -> None:
    page = opened(site.page(site.recorded[name]), again=True, viewport=PHONE)
    look_at(page, site.recorded[name])
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("script", [True, False], ids=["scripts", "no scripts"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_opens_without_scripts_and_has_no_serious_problem_with_them(
    site: Site, opened: Open, name: str, script: bool
) -> None:
    page = opened(site.page(site.shapes[name]), again=True, java_script_enabled=script)
    look_at(page, site.shapes[name])
    if script:
        assert serious_in(page) == []


def test_without_scripts_a_row_opens_a_clock_turns_and_every_moment_is_there(site: Site, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]), java_script_enabled=False)
    row = page.locator(".rows .dial").first
    row.locator("summary").click()
    body = row.locator("pre")
    assert body.is_visible()
    assert '"Token": "***"' in body.inner_text()
    page.locator("label[for=clock-rel]").click()
    row.locator(".rel").wait_for()
    row.locator(".abs").wait_for(state="hidden")
    moments = page.locator(".phone").first.locator(".moments > li")
    assert moments.count() > 3
    assert all(moment.is_visible() for moment in moments.all())


def test_the_slider_goes_back_in_time(site: Site, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]))
    bubbles = page.locator(".moments > li:visible .bubble")
    assert all("HANGUP" in text for text in bubbles.all_inner_texts())
    page.locator("#slider").fill("0")
    assert "START" in bubbles.first.inner_text() or "DIAL" in bubbles.first.inner_text()
    assert page.locator("#cursor").get_attribute("y") != "-10"


def test_a_mark_opens_its_row_and_lights_its_causes(site: Site, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]))
    mark = page.locator("svg .marks .hangup").first  # the one event that always leads to a message
    mark.hover()
    page.locator(".cause.on").first.wait_for(state="attached")
    mark.click()
    key = mark.get_attribute("href")
    page.locator(f"{key} details[open]").wait_for()
    assert page.locator(f"{key} pre").is_visible()


def test_an_event_is_copied_as_curl_without_its_token(site: Site, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-answered"]), permissions=["clipboard-read", "clipboard-write"])
    row = page.locator(".rows .start").first
    row.locator("summary").click()
    row.locator("button.copy").click()
    page.locator(".notice").wait_for()
    text = page.evaluate("navigator.clipboard.readText()")
    assert re.match(
        r"curl -X POST 'http://127\.0\.0\.1:\d+/start' -H 'Content-Type: application/json' --data-binary '\{", text
    )
    assert '"Token": "***"' in text


def test_both_languages_are_a_click_away(site: Site, opened: Open) -> None:
    page = opened(site.page(site.shapes["incoming-missed"]))
    assert "Пропущен" in page.locator("h1").inner_text()
    page.locator("a[hreflang=en]").click()
    page.locator("h1", has_text="Missed").wait_for()
    assert page.locator("html").get_attribute("lang") == "en"


def test_hostile_names_stay_text_and_a_live_call_lives_on(site: Site, opened: Open) -> None:
    shape = site.live
    page = opened(site.page(shape))
    assert page.locator(".badge.live").count() == 1
    assert "<img src=x onerror=alert(1)>" in " ".join(page.locator(".phone h3").all_inner_texts())
    assert page.locator("img, iframe").count() == 0
    page.locator(".rows .start summary").click()
    told = {"CallType": 0, "Phone": "375296254070"}
    site.tell(shape, "dial", UniqueId=shape.unique_id, Extensions=["150", "151"], **told)
    page.locator(".rows .dial").first.wait_for()
    assert page.locator(".rows .start pre").is_visible()
    page.locator("h1", has_text="Звонит: 150, 151").wait_for()
    site.tell(shape, "hangup", UniqueId=shape.unique_id, CallStatus="0", Extensions=[""], **told)
    page.locator("h1", has_text="Пропущен").wait_for()


def test_an_operator_logs_in_looks_and_logs_out(site: Site, opened: Open) -> None:
    page = opened(f"{site.url}/calls")
    log_in(page)
    page.locator("a[hreflang=en]").click()
    page.wait_for_url("**lang=en**")
    page.select_option("[name=result]", "missed")
    page.locator(".filter button").click()
    page.wait_for_url("**result=missed**")
    assert page.locator("h1").inner_text() == "Calls"
    page.locator("table.calls").last.locator("tbody a").first.click()
    page.locator(".head.missed").wait_for()
    page.go_back()
    page.locator(".out button").click()
    page.wait_for_url("**/calls/login")


def serious_in(page: Any) -> list[str]:
    """What axe-core finds."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{page.url} {one['id']} {one['nodes'][0]['html']}" for one in found if one["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_problem(site: Site, opened: Open, scheme: str) -> None:
    page = opened(f"{site.url}/calls", color_scheme=scheme)
    assert serious_in(page) == []
    log_in(page)
    shape, long = site.shapes["incoming-attended-transfer"], site.long
    assert serious_in(page) == []
    for path in (
        f"/call/details/{shape.unique_id}?e={shape.enterprise}",
        f"/call/details/{long.unique_id}?e={long.enterprise}",
        f"/call/details/{long.unique_id}/rest?e={long.enterprise}",
    ):
        page.goto(site.url + path)
        for button in page.locator(".rows :is(.dial, .edit, .delete, .start) > :is(details, button)").all():
            button.click()
        page.locator(".rows, #legs").first.wait_for()
        assert serious_in(page) == []


def log_in(page: Any) -> None:
    page.fill("[name=login]", "anna")
    page.fill("[name=password]", PASSWORD)
    page.locator("form button").click()
    page.wait_for_url("**/calls")


# A long call, whose page carries a line of each record and asks for the rest


@pytest.mark.parametrize("script", [True, False], ids=["scripts", "no scripts"])
def test_a_long_call_shows_every_record_once_too(site: Site, opened: Open, script: bool) -> None:
    shape = site.long
    page = opened(site.page(shape), java_script_enabled=script)
    listed = page.locator(".rows > li").evaluate_all("rows => rows.map(row => row.id)")
    drawn = page.locator("svg .marks > use").evaluate_all("marks => marks.map(mark => mark.id)")
    assert len(listed) == len(set(listed)) == shape.n_records
    assert drawn == [f"m-{key}" for key in listed]
    page.locator(".rows .dial button").first.click()
    body = page.locator(".more pre")
    body.wait_for()
    assert '"Token": "***"' in body.inner_text()
    assert page.locator(".more .changes ins").count()
    assert page.locator(".more .copy").count() == script
    assert ("/record?" in page.url) == (not script)


def test_a_long_call_has_its_clocks_its_slider_and_its_tables(site: Site, opened: Open) -> None:
    page = opened(site.page(site.long))
    times = page.locator(".rows time")
    page.locator("label[for=clock-rel]").click()
    assert times.first.inner_text() == "+0.000"
    page.locator("label[for=clock-abs]").click()
    assert re.fullmatch(r"[\d:.]{12}", times.first.inner_text())
    page.locator("a[data-rest]").click()
    page.locator("#slider").wait_for()
    page.locator("#slider").fill("0")
    assert re.fullmatch(r"[\d:.]{12}", page.locator("output").inner_text())
    page.locator("svg .marks > .dial").click()
    page.locator(".rows .dial .more").wait_for()
    assert page.locator("#legs tbody tr").count() > 1


def test_the_same_client_s_last_calls_are_told_and_open_for_those_who_may_see_them(site: Site, opened: Open) -> None:
    page = opened(site.page(site.long))
    (other,) = page.locator("ul.calls li").all()
    assert other.locator("a").count() == 0  # this link opens one call
    page = opened(f"{site.url}/calls")
    log_in(page)
    page.goto(f"{site.url}/call/details/{site.long.unique_id}?e={site.long.enterprise}")
    page.locator("ul.calls a").click()
    page.wait_for_url(f"**/{site.live.unique_id}?**")
