"""Who may post: guesses are slowed down, hosts never; addresses outside of a list learn nothing; signed events are checked."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from callgram.context import Directory, Enterprise, Secret
from callgram.errors import IngestError, StoreError
from callgram.events import Kind
from callgram.ingest import Ingest
from callgram.senders import MOST_PLACES, WRONG_TOKENS, Guesses, Senders, place_of
from callgram.signatures import new_secret
from callgram.testing.memory import MemoryStore

HOST, NEIGHBOUR = "203.0.113.7", "198.51.100.9"
SECRET = new_secret()


def enterprise(number: str = "0367", token: str = "right", **more: Any) -> Enterprise:
    return Enterprise(number=number, token=Secret(token), bot_token=Secret("7:a"), **more)


class Door:
    """Senders with a clock that stands, and a directory that can be changed."""

    def __init__(self, *enterprises: Enterprise, store: MemoryStore | None = None) -> None:
        self.now = 1000.0
        self.store = store or MemoryStore()
        self._marks = itertools.count(1)
        self.change(*enterprises or [enterprise()])
        self.senders = Senders(self.store, lambda: self._directory, lambda: self.now)

    def change(self, *enterprises: Enterprise) -> None:
        self._directory = Directory(mark=str(next(self._marks)), enterprises={one.number: one for one in enterprises})

    def knock(self, token: str, address: str = HOST) -> str | int:
        """The number of the enterprise, or the status of the refusal."""
        try:
            return self.senders.find(token, address).number
        except IngestError as caught:
            error = caught
        assert error.field == "Token"
        assert token == "" or token not in str(error)
        assert bool(error.retry_after_s) == (error.status == 429)
        return error.status

    def guess(self, address: str = HOST, n: int = WRONG_TOKENS) -> list[str | int]:
        return [self.knock(f"guess {self.now} {at}", address) for at in range(n)]


# Guesses


def test_the_twenty_first_different_wrong_token_within_a_minute_is_429() -> None:
    door = Door()
    assert door.guess() == [403] * WRONG_TOKENS
    assert door.knock("another") == 429
    assert door.knock("another", NEIGHBOUR) == 403, "each address by itself"


def test_a_right_guess_of_somebody_who_is_being_slowed_down_is_refused_like_a_wrong_one() -> None:
    door = Door()
    door.guess()
    with pytest.raises(IngestError) as right:
        door.senders.find("right", HOST)
    with pytest.raises(IngestError) as wrong:
        door.senders.find("wrong", HOST)
    assert [str(right.value), right.value.status] == [str(wrong.value), 429]
    assert HOST in str(right.value), "who is behind a proxy sees the proxy's address, and what to do"
    assert "CALLGRAM_TRUSTED_PROXIES" in str(right.value)


def test_a_host_that_was_let_in_before_is_let_in_whatever_its_neighbours_do() -> None:
    door = Door(enterprise(), enterprise("0400", "other"))
    assert door.knock("right") == "0367"
    door.guess()
    assert door.knock("right") == "0367"
    assert door.knock("other") == 429, "only the enterprise that posted from there"
    door.change(enterprise(name="renamed"), enterprise("0400", "other"))
    assert door.knock("right") == "0367", "a change of the directory forgets no host"
    door.change(enterprise(token="newer"))
    assert door.knock("newer") == "0367", "a new Token of the same enterprise is its host's"
    assert door.knock("right") == 429


def test_the_same_wrong_token_again_is_no_guess() -> None:
    """A host with an old Token posts on; when its enterprise is added or the Token is put right, it is let in at once."""
    door = Door()
    assert [door.knock("early") for _ in range(5 * WRONG_TOKENS)] == [403] * 5 * WRONG_TOKENS
    door.guess(n=WRONG_TOKENS - 1)
    assert door.knock("another") == 429
    assert door.knock("early") == 403
    door.change(enterprise(), enterprise("0400", "early"))
    assert door.knock("early") == "0400"


def test_who_repeats_old_guesses_does_not_prolong_the_minute() -> None:
    door = Door()
    door.guess()
    door.now += 59
    assert [door.knock(f"guess 1000.0 {at}") for at in range(WRONG_TOKENS)] == [403] * WRONG_TOKENS
    door.now += 1
    assert door.knock("right") == "0367"


def test_the_tokens_are_read_once_for_each_change_of_the_directory() -> None:
    door = Door()
    first = door.senders.find("right", HOST)
    assert door.senders.find("right", HOST) is first
    door.change(enterprise())
    assert door.senders.find("right", HOST) is not first


def test_a_post_without_a_token_is_no_guess() -> None:
    door = Door()
    assert [door.knock("") for _ in range(2 * WRONG_TOKENS)] == [403] * 2 * WRONG_TOKENS
    assert door.knock("right") == "0367"


@pytest.mark.parametrize(
    ("after_s", "status"),
    [pytest.param(59.0, 429, id="within the minute"), pytest.param(60.0, 403, id="a minute later")],
)
def test_guesses_are_forgotten_after_a_minute(after_s: float, status: int) -> None:
    door = Door()
    door.guess()
    for _ in range(100):
        door.now += after_s / 100
        door.knock(f"refused {door.now}", NEIGHBOUR)
    door.now = 1000.0 + after_s
    assert door.knock("another") == status


def test_the_answer_says_how_long_to_wait() -> None:
    door = Door()
    door.knock("first")
    door.now += 20.5
    door.guess(n=WRONG_TOKENS - 1)
    with pytest.raises(IngestError) as caught:
        door.senders.find("another", HOST)
    assert caught.value.retry_after_s == 40, "39.5 s, as a whole number"
    door.now += 40
    assert door.knock("another") == 403
    assert door.knock("yet another") == 429, "what was refused meanwhile did not count, what was tried does"


def test_of_very_many_addresses_the_oldest_are_forgotten() -> None:
    guesses = Guesses(limit=1, most=3)
    for at in range(4):
        guesses.note(f"place {at}", b"wrong", 0.0)
    assert [guesses.wait_s(f"place {at}", b"another", 1.0) > 0 for at in range(4)] == [False, True, True, True]


@pytest.mark.parametrize(
    ("address", "place"),
    [
        pytest.param("203.0.113.7", "203.0.113.7", id="IPv4"),
        pytest.param("::ffff:203.0.113.7", "203.0.113.7", id="IPv4 on an IPv6 socket"),
        pytest.param("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="IPv6: its network"),
        pytest.param("fe80::1%eth0", "fe80::/64", id="with a zone"),
        pytest.param("", "", id="a unix socket"),
        pytest.param("un known", "unknown", id="what a proxy says"),
        pytest.param("x" * 5000, "x" * 64, id="too much"),
    ],
)
def test_what_counts_as_one_address(address: str, place: str) -> None:
    assert place_of(address) == place


# What is remembered


async def _while_remembering(door: Door, work: Callable[[], Awaitable[None]]) -> None:
    remembering = asyncio.create_task(door.senders.remember())
    try:
        async with asyncio.timeout(5):
            await work()
    finally:
        remembering.cancel()
        with suppress(asyncio.CancelledError):
            await remembering


def test_a_host_is_known_again_after_a_restart() -> None:
    async def play() -> None:
        before = Door()
        assert before.knock("right") == "0367"

        async def saved() -> None:
            while not await before.store.kept("ingest"):
                await asyncio.sleep(0)

        await _while_remembering(before, saved)
        after = Door(store=before.store)
        await after.senders.recall()
        after.guess()
        assert after.knock("right") == "0367"
        after.guess(NEIGHBOUR)
        assert after.knock("right", NEIGHBOUR) == 429

    asyncio.run(play())


def test_a_host_that_posted_to_one_node_is_known_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        monkeypatch.setattr("callgram.senders.RECALL_EVERY_S", 0.001)
        one = Door()
        other = Door(store=one.store)
        one.knock("right")
        other.guess()
        assert other.knock("right") == 429

        async def told() -> None:
            async def known() -> None:
                while other.knock("right") == 429:
                    await asyncio.sleep(0)

            await _while_remembering(other, known)

        await _while_remembering(one, told)

    asyncio.run(play())


def test_the_last_addresses_of_an_enterprise_are_remembered_and_no_more() -> None:
    async def play() -> None:
        door = Door()
        for at in range(2 * MOST_PLACES):
            assert door.knock("right", f"10.0.{at // 256}.{at % 256}") == "0367"

        async def saved() -> None:
            while len(await door.store.kept("ingest")) < MOST_PLACES:
                await asyncio.sleep(0)

        await _while_remembering(door, saved)
        kept = await door.store.kept("ingest")
        assert len(kept) == MOST_PLACES
        assert "0367 10.0.1.255" in kept
        assert "0367 10.0.0.0" not in kept

    asyncio.run(play())


def test_what_the_store_did_not_take_is_kept_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(MemoryStore):
        away = True

        async def keep(self, plugin: str, key: str, value: bytes | None) -> None:
            if self.away:
                self.away = False
                raise StoreError
            await super().keep(plugin, key, value)

    async def play() -> None:
        monkeypatch.setattr("callgram.senders.SAVE_EVERY_S", 0.0)
        door = Door(store=Away())
        door.knock("right")

        async def saved() -> None:
            while not await door.store.kept("ingest"):
                await asyncio.sleep(0)

        await _while_remembering(door, saved)

    asyncio.run(play())


# Address lists


@pytest.mark.parametrize(
    ("addresses", "address", "admitted"),
    [
        pytest.param([], "198.51.100.9", True, id="no list: anywhere"),
        pytest.param(["203.0.113.7"], "203.0.113.7", True, id="the address"),
        pytest.param(["203.0.113.7"], "203.0.113.8", False, id="the one beside it"),
        pytest.param(["203.0.113.7", "10.0.0.0/8"], "10.255.0.1", True, id="a network"),
        pytest.param(["203.0.113.7", "10.0.0.0/8"], "11.0.0.1", False, id="outside of it"),
        pytest.param(["203.0.113.7"], "::ffff:203.0.113.7", True, id="on an IPv6 socket"),
        pytest.param(["2001:db8::/32"], "2001:db8:1::7", True, id="IPv6"),
        pytest.param(["2001:db8::/32"], "203.0.113.7", False, id="IPv4 in an IPv6 list"),
        pytest.param(["0.0.0.0/0"], "", False, id="no address"),
        pytest.param(["0.0.0.0/0"], "unknown", False, id="no address, says a proxy"),
    ],
)
def test_events_come_from_the_addresses_of_a_list(addresses: list[str], address: str, admitted: bool) -> None:
    door = Door(enterprise(addresses=tuple(map(ip_network, addresses))))
    assert door.knock("right", address) == ("0367" if admitted else 403)


def test_a_right_token_from_elsewhere_is_answered_as_a_wrong_one() -> None:
    door = Door(enterprise(addresses=(ip_network(HOST),)))
    told = []
    for token in ("right", "wrong"):
        with pytest.raises(IngestError) as caught:
            door.senders.find(token, NEIGHBOUR)
        told.append((caught.value.status, str(caught.value), caught.value.field))
    assert told[0] == told[1]
    assert "callgram enterprise list" in told[0][1]
    door.guess(NEIGHBOUR, WRONG_TOKENS - 2)
    assert [door.knock("right", NEIGHBOUR), door.knock("more", NEIGHBOUR)] == [403, 429], "it counts as one, too"
    door.guess("192.0.2.1")
    assert door.knock("right", "192.0.2.1") == 429


def test_a_list_that_is_made_shuts_out_whom_it_does_not_name_at_once() -> None:
    door = Door()
    assert door.knock("right", NEIGHBOUR) == "0367"
    door.change(enterprise(addresses=(ip_network(HOST),)))
    assert door.knock("right", NEIGHBOUR) == 403
    assert door.knock("right", HOST) == "0367"
    door.change(enterprise())
    assert door.knock("right", NEIGHBOUR) == "0367"


# Signatures, at the door of ingest

NOW = datetime(2025, 11, 29, 12, 0, tzinfo=UTC)
BODY = b'{"Token": "right", "UniqueId": "1.1"}'


def sign(secret: Secret, message_id: str = "msg_1") -> dict[bytes, bytes]:
    made = Webhook(secret.reveal()).sign(message_id, NOW, BODY.decode())
    sent_at = b"%d" % NOW.timestamp()
    return {b"webhook-id": message_id.encode(), b"webhook-timestamp": sent_at, b"webhook-signature": made.encode()}


def answers(owner: Enterprise, *posts: tuple[Kind, dict[bytes, bytes]]) -> list[bool | int]:
    """New (True), repeated (False), or the status of the refusal."""

    async def play() -> list[bool | int]:
        store = MemoryStore()
        directory = Directory(mark="1", enterprises={owner.number: owner})
        ingest = Ingest(store, lambda: directory, lambda: NOW, stored=lambda events, ahead: None)
        writing = asyncio.create_task(ingest.run())
        told: list[bool | int] = []
        for kind, headers in posts:
            try:
                told.append(await ingest.accept(kind, BODY, headers, HOST))
            except IngestError as error:
                told.append(error.status)
        writing.cancel()
        return told

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("secrets", "required", "headers", "answer"),
    [
        pytest.param((), False, {}, True, id="no secret, unsigned"),
        pytest.param((), False, sign(SECRET), True, id="no secret, signed: nothing to check it with"),
        pytest.param((SECRET,), False, {}, True, id="may sign, unsigned"),
        pytest.param((SECRET,), False, sign(SECRET), True, id="may sign, signed"),
        pytest.param((SECRET,), False, sign(new_secret()), 403, id="may sign, wrongly signed"),
        pytest.param((new_secret(), SECRET), True, sign(SECRET), True, id="must sign, with the secret of before"),
        pytest.param((SECRET,), True, {}, 403, id="must sign, unsigned"),
        pytest.param((SECRET,), True, {b"webhook-id": b"msg_1"}, 403, id="must sign, only an id"),
        pytest.param((SECRET,), True, sign(new_secret()), 403, id="must sign, wrongly signed"),
        pytest.param((), True, sign(SECRET), 403, id="must sign, without a secret"),
        pytest.param((Secret("whsec_*"),), True, {}, 403, id="must sign, with a secret that is none"),
    ],
)
def test_whether_events_may_and_must_be_signed(
    secrets: tuple[Secret, ...], required: bool, headers: dict[bytes, bytes], answer: bool | int
) -> None:
    owner = enterprise(secrets=secrets, require_signature=required)
    assert answers(owner, (Kind.DIAL, headers)) == [answer]


def test_a_signed_event_that_is_replayed_is_a_repetition_on_every_route() -> None:
    """The route is not signed. An id without a signature is only the sender's own word, and counts for its route."""
    owner, headers = enterprise(secrets=(SECRET,)), sign(SECRET)
    disguised = headers | {b"webhook-id": b" msg_1\x0b"}
    posts = [(Kind.DIAL, headers), (Kind.DIAL, headers), (Kind.HANGUP, headers), (Kind.HANGUP, disguised)]
    assert answers(owner, *posts, (Kind.HANGUP, sign(SECRET, "msg_2"))) == [True, False, False, False, True]
    unsigned = {b"webhook-id": b"msg_3"}
    assert answers(owner, (Kind.DIAL, unsigned), (Kind.HANGUP, unsigned)) == [True, True]


def test_an_enterprise_shows_none_of_its_secrets() -> None:
    owner = enterprise(token="375290000001", secrets=(SECRET,), require_signature=True)
    assert SECRET.reveal() not in f"{owner!r} {owner}"
    with pytest.raises(TypeError):
        msgspec.json.encode(owner)
