"""The button under the final message, and the signed links behind it."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callgram import Call, Context, Message, Stage
from callgram.testing import MemoryStore, lab
from callgram_details import Details, Settings
from callgram_details.accounts import Throttle, logged_in, new_operator, new_token, token_of
from callgram_details.keys import KEY, PLUGIN, Vault, new_key

NOW = datetime(2025, 9, 14, 9, 5, tzinfo=UTC)
RING = ("dial", {"UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "Extensions": ["150"]})
END = ("hangup", {"UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "CallStatus": "0", "Extensions": [""]})


def ended() -> Call:
    return lab(Details).call(RING, END)


def with_vault(work: Any) -> Any:
    """Run ``work(vault, store)`` with a vault that is open."""

    async def run() -> Any:
        store, vault = MemoryStore(), Vault()
        await vault.open(store)
        try:
            return await work(vault, store)
        finally:
            await vault.close()

    return asyncio.run(run())


def drawn(
    settings: Settings, call: Call, *, stage: Stage = Stage.HANGUP, at: datetime = NOW, times: int = 1
) -> list[Any]:
    async def run() -> list[Any]:
        plugin, store = Details(), MemoryStore()
        await plugin.startup(Context(now=NOW, settings=settings, store=store))
        try:
            return [
                await plugin.decorate_message(
                    Context(now=at + timedelta(hours=n), settings=settings), call, stage, Message("text")
                )
                for n in range(times)
            ]
        finally:
            await plugin.shutdown(Context(now=NOW, settings=settings))

    return asyncio.run(run())


SHOWN = Settings(base_url="https://calls.example.com/pbx/")


def test_the_final_message_has_the_button_and_its_text_stays() -> None:
    (message,) = drawn(SHOWN, ended())
    assert message.html == "text"
    ((button,),) = message.keyboard
    assert button["text"] == "📊 Детали звонка"
    assert re.fullmatch(r"https://calls\.example\.com/pbx/call/details/1\.1\?s=[\w.-]+", button["url"])


def test_drawn_again_later_it_is_the_same_message() -> None:
    first, second = drawn(SHOWN, ended(), times=2)
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        pytest.param(Settings(), Stage.HANGUP, id="no base_url"),
        pytest.param(Settings(base_url="https://a.example", button=False), Stage.HANGUP, id="switched off"),
        pytest.param(SHOWN, Stage.DIAL, id="not final"),
    ],
)
def test_there_is_no_button(settings: Settings, stage: Stage) -> None:
    assert drawn(settings, ended(), stage=stage) == [None]


def test_without_a_store_there_is_no_button_and_no_error() -> None:
    async def ask() -> Any:
        return await Details().decorate_message(
            Context(now=NOW, settings=SHOWN), ended_call, Stage.HANGUP, Message("text")
        )

    ended_call = ended()
    assert asyncio.run(ask()) is None


@pytest.mark.parametrize(
    "url", ["calls.example.com", "https://localhost:8080", "ftp://a.b", "https://a.b/?x=1", "https://"]
)
def test_an_address_that_telegram_would_refuse_is_refused(url: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="base_url"):
        msgspec.convert({"base_url": url}, Settings)


def test_a_link_opens_its_call_until_it_expires() -> None:
    async def work(vault: Vault, store: MemoryStore) -> None:
        link = vault.sign_link("0367", 12, NOW + timedelta(days=14))
        assert vault.read_link(link, NOW) == ("0367", 12)
        assert vault.read_link(link, NOW + timedelta(days=15)) is None
        assert vault.sign_link("0367", 12, NOW + timedelta(days=14)) == link

    with_vault(work)


def test_no_link_is_good_that_was_not_signed_so() -> None:
    async def work(vault: Vault, store: MemoryStore) -> None:
        link = vault.sign_link("0367", 12, NOW + timedelta(days=1))
        session = vault.sign_session(["anna", "seal"])
        body, _, signature = link.rpartition(".")
        for wrong in (
            "",
            "x",
            link[:-2],
            f"{body[:-1]}A.{signature}",
            session,
            f"{signature}.{body}",
            "[1,2,3]",
            "\udcff",
        ):
            assert vault.read_link(wrong, NOW) is None, wrong

    with_vault(work)


def test_rotating_the_key_revokes_links_and_sessions() -> None:
    async def work(vault: Vault, store: MemoryStore) -> None:
        link, session = vault.sign_link("0367", 12, NOW + timedelta(days=1)), vault.sign_session(["anna", "seal"])
        assert vault.read_session(session, 3600) == ["anna", "seal"]
        await store.keep(PLUGIN, KEY, new_key())
        await vault.renew()
        assert vault.read_link(link, NOW) is None
        assert vault.read_session(session, 3600) is None

    with_vault(work)


def test_a_link_has_no_secret_and_two_processes_share_the_key() -> None:
    async def work(vault: Vault, store: MemoryStore) -> None:
        other = Vault()
        await other.open(store)
        link = vault.sign_link("0367", 12, NOW + timedelta(days=1))
        assert other.read_link(link, NOW) == ("0367", 12)
        await other.close()
        assert (await store.kept(PLUGIN))[KEY].decode() not in link

    with_vault(work)


def test_a_password_opens_and_a_wrong_one_does_not() -> None:
    async def work(vault: Vault, store: MemoryStore) -> None:
        key, value = new_operator("anna", "correct horse", ("0367",), masked=False)
        assert b"correct" not in value
        await store.keep(PLUGIN, key, value)
        await vault.renew()
        operator = await logged_in(vault, "anna", "correct horse")
        assert operator is not None
        assert operator.enterprises == ("0367",)
        assert await logged_in(vault, "anna", "wrong") is None
        assert await logged_in(vault, "nobody", "correct horse") is None

    with_vault(work)


def test_a_token_is_known_by_its_hash_only() -> None:
    async def work(vault: Vault, store: MemoryStore) -> None:
        bearer, key, value = new_token("0367", masked=False)
        await store.keep(PLUGIN, key, value)
        await vault.renew()
        found = token_of(vault, bearer)
        assert found is not None
        assert found.enterprise == "0367"
        assert bearer.rpartition("_")[2].encode() not in value
        for wrong in (bearer[:-1] + ("0" if bearer[-1] != "0" else "1"), "", "cg_1_2", bearer.replace("cg_", "")):
            assert token_of(vault, wrong) is None

    with_vault(work)


def test_five_failures_in_a_minute_close_the_door() -> None:
    throttle = Throttle(limit=5)
    for _ in range(4):
        throttle.note("login anna", "address ::1")
    assert throttle.is_open("login anna")
    throttle.note("login anna")
    assert not throttle.is_open("login anna", "address ::2")
    assert throttle.is_open("login boris", "address ::1")
