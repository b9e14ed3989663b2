"""The pytest plugin: ``callgram_lab`` and ``callgram_service``. Imports callgram only in the tests that use it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def callgram_lab() -> Any:
    """``callgram_lab(plugin, settings={…})``: see callgram.testing.lab."""
    from callgram.testing.lab import lab

    return lab


@pytest.fixture
def callgram_service() -> Any:
    """``async with callgram_service(telegram_url=…)``: see callgram.testing.service."""
    from callgram.testing.service import service

    return service
