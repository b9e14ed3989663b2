"""A live page and the end of the process: what is being watched delays nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from callgram import Enterprise, Secret
from callgram.testing import MemoryStore, service
from callgram_details.keys import Vault

PLUGINS = 'api = 1\n[[plugin]]\nname = "details"\n'
OFFICE = Enterprise(number="0367", token=Secret("375290000001"), bot_token=Secret("42:SECRET"))
START = {"Token": "375290000001", "UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "Trunk": "1"}


def test_an_open_live_page_does_not_delay_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> bytes:
        store, vault = MemoryStore(), Vault()
        await vault.open(store)
        async with aiohttp.ClientSession() as reader:
            told = {"telegram_url": "http://127.0.0.1:9", "enterprises": [(OFFICE, [])], "roles": ("ingest", "plan")}
            async with service(plugins=PLUGINS, store=store, **told) as running:
                async with reader.post(f"{running.url}/start", json=START) as answer:
                    assert answer.status == 200
                while not (found := await store.find_calls([OFFICE.number], "1.1")):
                    await asyncio.sleep(0)
                link = vault.sign_link(*found[0], datetime.now(UTC) + timedelta(days=1))
                stream = await reader.get(f"{running.url}/call/details/1.1/live?s={link}")
                assert stream.content_type == "text/event-stream"
                first = await stream.content.readline()
            await vault.close()
            with pytest.raises(aiohttp.ClientError):  # it was cut, and an EventSource asks again by itself
                await stream.content.read()
            stream.close()
            return first

    assert asyncio.run(run()) == b"retry: 2000\n"
    assert not [record for record in caplog.records if "graceful shutdown exceeded" in record.getMessage()]
