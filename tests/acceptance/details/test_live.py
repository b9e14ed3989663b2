"""A live page and the end of the process: what is being watched delays nothing."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from callgram_details.keys import Vault
from callgram_postgres.store import connect

from ..harness import Background, Office, Program, new_office, plugins_toml


async def link(program: Program, office: Office, unique_id: str) -> str:
    store, vault = await connect(program.dsn), Vault()
    await vault.open(store)
    ((_, call),) = await store.find_calls([office.number], unique_id)
    await vault.close()
    await store.close()
    return vault.sign_link(office.number, call, datetime.now(UTC) + timedelta(days=1))


def test_an_open_live_page_does_not_delay_the_stop(make_program: Callable[..., Program], background: Background) -> None:
    program, office = make_program(plugins_toml("postgres", "details")), new_office()
    program.start()
    program.add([office])
    program.tell(office, "start", UniqueId="1.1", CallType=0, Phone="375296254070", Trunk="1")
    program.settled(office)
    url = f"{program.url}/call/details/1.1/live?s={background.run(link(program, office, '1.1'))}"
    with urllib.request.urlopen(url, timeout=10) as stream:
        assert stream.headers.get_content_type() == "text/event-stream"
        assert stream.readline() == b"retry: 2000\n"
        assert program.stop() == 0
        with pytest.raises(http.client.IncompleteRead):  # it was cut, and an EventSource asks again by itself
            stream.read()
    assert "graceful shutdown exceeded" not in program.log
