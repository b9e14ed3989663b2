"""Chromium, for the tests that look at pages as people do. CALLGRAM_CHROMIUM names another one; CALLGRAM_NO_BROWSER=1 leaves
them out."""

from __future__ import annotations

import os
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
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Its event loop is the main thread's until it is closed, so it is closed at the end of a module."""
    if os.environ.get("CALLGRAM_NO_BROWSER") == "1":
        pytest.skip("CALLGRAM_NO_BROWSER=1")
    assert Path(CHROMIUM).exists(), f"no browser at {CHROMIUM}: install Chromium, or set CALLGRAM_CHROMIUM or _NO_BROWSER=1"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def kept(browser: Any) -> dict[str, Any]:
    """Contexts that tests without a login share: making one takes longer than most of them."""
    return {}


@pytest.fixture
def opened(browser: Any, kept: dict[str, Any]) -> Iterator[Open]:
    """``opened(url, again=False, **context)``: a page, which must not have complained by the end of the test. ``again``: in a
    context that other tests had before."""
    complaints: list[str] = []
    closing: list[Any] = []

    def open_page(url: str, *, again: bool = False, **options: Any) -> Any:
        home = url.partition("/call")[0]
        context = (kept.get(str(options)) if again else None) or browser.new_context(**options)
        if again:
            kept[str(options)] = context
        page = context.new_page()
        closing.append(page if again else context)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("a script ran"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(home) or complaints.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for one in closing:
        one.close()
    assert complaints == []
