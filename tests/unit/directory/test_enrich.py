"""Whose names are found for a call: in which table each of its numbers is looked up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callgram import Call, Context, Enrichment
from callgram.testing import lab
from callgram.testing.memory import MemoryStore
from callgram_directory import Directory
from callgram_directory.lookup import Settings

SCENARIOS = Path(__file__).parents[2] / "data" / "scenarios"
TABLES: dict[Any, dict[str, str]] = {
    "customers": {"375296254070": "Иванов", "375290000055": "Мобильный Петрова", "151": "чужой с коротким номером"},
    "extensions": {"151": "Петров", "375296254070": "никто"},
    "lines": {"0001363": "Офис", "151": "никто"},
}


def found(call: Call) -> Enrichment:
    async def run() -> Enrichment | None:
        store = MemoryStore()
        for table, names in TABLES.items():
            await store.put_names("0367", table, names)
        plugin = Directory()
        ctx = Context(now=call.started_at, settings=Settings(), store=store)
        await plugin.startup(ctx)
        return await plugin.enrich_call(ctx, call)

    enrichment = asyncio.run(run())
    assert enrichment is not None
    return enrichment


@pytest.fixture
def call() -> Call:
    return lab(Directory).call(SCENARIOS / "incoming-answered.json")


def test_each_number_has_its_name_from_the_table_of_its_kind(call: Call) -> None:
    assert found(call).names == {"375296254070": "Иванов", "151": "Петров", "0001363": "Офис"}


def test_a_colleague_s_mobile_may_stand_among_the_customers(call: Call) -> None:
    answered = msgspec.structs.replace(call, talkers=("375290000055",))
    assert found(answered).names["375290000055"] == "Мобильный Петрова"
