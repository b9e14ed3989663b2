"""A live page and the end of the process: what is being watched delays nothing."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from callgram_details.keys import Vault
from callgram_postgres.store import PostgresStore

from ..harness import Program, new_office, plugins_toml


async def link(store: PostgresStore) -> str:
    """To the only call."""
    vault = Vault()
    await vault.open(store)
    (found,) = await store.find_calls(list((await store.directory()).enterprises), "1.1")
    await vault.close()
    return vault.sign_link(*found, datetime.now(UTC) + timedelta(days=1))


def test_an_open_live_page_does_not_delay_the_stop(make_program: Callable[..., Program]) -> None:
    program, office = make_program(plugins_toml("postgres", "details")), new_office()
    program.start()
    program.add([office])
    program.tell(office, "start", UniqueId="1.1", CallType=0, Phone="375296254070", Trunk="1")
    program.settled(office)
    url = f"{program.url}/call/details/1.1/live?s={program.with_store(link)}"
    with urllib.request.urlopen(url, timeout=10) as stream:
        assert stream.headers.get_content_type() == "text/event-stream"
        assert stream.readline() == b"retry: 2000\n"
        assert program.stop() == 0
        with pytest.raises(http.client.IncompleteRead):  # it was cut, and an EventSource asks again by itself
            stream.read()
    assert "graceful shutdown exceeded" not in program.log
