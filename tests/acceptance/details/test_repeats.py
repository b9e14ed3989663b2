"""What a host posts again is not stored, and counted: from the POST to the page, the API and the exports."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from callgram import Enterprise, Secret
from callgram.testing import MemoryStore, service
from callgram_details.keys import Vault

PLUGINS = 'api = 1\n[[plugin]]\nname = "details"\n'
OFFICE = Enterprise(number="0367", token=Secret("375290000001"), bot_token=Secret("42:SECRET"))
START = {"Token": "375290000001", "UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "Trunk": "1"}
DIAL = START | {"Extensions": ["150"]}
POSTS: list[tuple[str, dict[str, Any], str, bool]] = [  # kind, body, webhook-id, whether it is a repetition
    ("start", START, "", False),
    ("start", START, "", True),
    ("dial", DIAL, "", False),
    ("hangup", START | {"CallStatus": "0"}, "evt_1", False),
    ("hangup", START | {"CallStatus": "0", "Cause": "16"}, "evt_1", True),
    ("start", START, "", True),
]


async def told() -> tuple[dict[str, Any], str, str, str]:
    """The call of POSTS as the API has it once all is counted; its page, its first record and its diagram."""
    store, vault = MemoryStore(), Vault()
    await vault.open(store)
    async with aiohttp.ClientSession() as reader:
        given = {"telegram_url": "http://127.0.0.1:9", "enterprises": [(OFFICE, [])], "roles": ("ingest", "plan")}
        async with service(plugins=PLUGINS, store=store, **given) as running:
            for kind, body, message_id, repeated in POSTS:
                headers = {"webhook-id": message_id} if message_id else {}
                async with reader.post(f"{running.url}/{kind}", json=body, headers=headers) as answer:
                    assert (await answer.json()).get("repeated", False) is repeated
            while not (found := await store.find_calls([OFFICE.number], "1.1")):
                await asyncio.sleep(0)
            link = f"?lang=en&s={vault.sign_link(*found[0], datetime.now(UTC) + timedelta(days=1))}"

            async def read(path: str) -> str:
                async with reader.get(f"{running.url}{path}") as answer:
                    assert answer.status == 200
                    return await answer.text()

            api = json.loads(await read(f"/api/calls/1.1{link}"))
            while api["counts"]["repeated"] < 3 or len(api["events"]) < 3:
                api = json.loads(await read(f"/api/calls/1.1{link}"))
            page = await read(f"/call/details/1.1{link}")
            first = await read(f"/call/details/1.1/record{link}&key=e{api['events'][0]['id']}")
            diagram = await read(f"/api/calls/1.1/export.mmd{link}")
        await vault.close()
    return api, page, first, diagram


def test_what_is_posted_again_is_counted_where_it_was_posted_first() -> None:
    api, page, first, diagram = asyncio.run(asyncio.wait_for(told(), 20))
    assert [(event["kind"], event["repeats"]) for event in api["events"]] == [("start", 2), ("dial", 0), ("hangup", 1)]
    assert (api["counts"]["events"], api["counts"]["repeated"]) == (3, 3)
    assert "<b>3</b> repeated" in page
    assert re.findall(r'class="again">(.*?)<', page) == ["×3", "×2"]
    assert re.findall(r">(start.*?|dial.*?|hangup.*?)</text>", page) == ["start ×3", "dial", "hangup ×2"]
    assert "Posted again: 2" in first
    assert [line.endswith((" (+2)", " (+1)")) for line in diagram.splitlines() if "->>" in line] == [True, False, True]
