"""Who may post, on the running program: guesses of a Token, lists of addresses, signed events. Refused means not stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from ..serve import until
from .harness import Office, Program, new_office

EVENT = {"UniqueId": "1757890000.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
NOTICED_S = 5.0  # a second is promised; a busy machine may take some more


@pytest.fixture(scope="module")
def proxied(make_program: Callable[..., Program]) -> Program:
    """A program behind a reverse proxy on its own machine."""
    program = make_program(CALLGRAM_TRUSTED_PROXIES="127.0.0.1")
    program.start()
    return program


def body(office: Office, **more: Any) -> bytes:
    return json.dumps({"Token": office.token, **EVENT, "At": time.monotonic_ns(), **more}).encode()


def noticed(condition: Callable[[], bool], what: str) -> None:
    until(condition, what, NOTICED_S)


def change(program: Program, *arguments: str) -> str:
    done = program.cli("enterprise", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(program: Program, office: Office) -> Any:
    rows = json.loads(change(program, "list", "--json"))
    return next(row for row in rows if row["number"] == office.number)


# Guesses


def test_who_tries_many_tokens_is_told_to_wait_and_a_host_behind_the_same_address_is_not(proxied: Program) -> None:
    host, newcomer = new_office(), new_office()
    proxied.add([host, newcomer])
    nat, elsewhere = ("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "198.51.100.9, 127.0.0.1")
    assert proxied.post("start", body(host), nat).status == 200

    tried = [proxied.post("start", {"Token": f"guess {at}", **EVENT}, nat) for at in range(21)]
    assert [answer.status for answer in tried] == [403] * 20 + [429]
    last = tried[-1]
    assert 0 < int(last.headers["retry-after"]) <= 60
    assert last.json["field"] == "Token"
    assert "203.0.113.7" in last.json["error"]
    assert proxied.post("start", body(newcomer), nat).json == last.json, "a right guess is answered like a wrong one"
    assert proxied.stored(newcomer) == []
    assert b'callgram_events_refused_total{status="429"} 2.0' in proxied.get("/metrics").body

    assert proxied.post("start", body(host), nat).status == 200
    assert proxied.post("start", body(newcomer), elsewhere).status == 200
    until(lambda: len(proxied.sql("SELECT FROM plugin_keeps WHERE plugin = 'ingest'")) == 2, "both are remembered")
    assert proxied.stop() == 0
    proxied.start()
    for at in range(20):
        proxied.post("start", {"Token": f"guess {at}", **EVENT}, nat)
    assert proxied.post("start", {"Token": "guess", **EVENT}, nat).status == 429
    assert proxied.post("start", body(host), nat).status == 200, "nor after a restart"
    assert len(proxied.stored(host)) == 3


# Addresses


def test_a_list_of_addresses_holds_within_a_second_and_a_header_does_not_get_around_it(
    program: Program, office: Office
) -> None:
    unknown = program.post("start", {"Token": f"{office.token}0", **EVENT}).json
    change(program, "add", office.number, "--address", "10.0.0.0/8", "--address", "203.0.113.7")
    noticed(lambda: program.post("start", body(office)).status == 403, "the list is known")
    n_stored = len(program.stored(office))
    assert listed(program, office)["addresses"] == ["10.0.0.0/8", "203.0.113.7/32"]
    refused = program.post("start", body(office), ("X-Forwarded-For", "10.0.0.1"))
    assert refused.status == 403
    assert refused.json == unknown, "not a word on whether the Token is right"
    assert refused.json["field"] == "Token"
    assert "callgram enterprise list" in refused.json["error"]
    assert len(program.stored(office)) == n_stored

    change(program, "add", office.number, "--name", "Acme")
    assert listed(program, office)["addresses"] == ["10.0.0.0/8", "203.0.113.7/32"], "what is not given stays"
    change(program, "add", office.number, "--address", "127.0.0.0/8")
    noticed(lambda: program.post("start", body(office)).status == 200, "another list is known")
    assert "127.0.0.0/8" in change(program, "list")
    change(program, "add", office.number, "--any-address")
    assert listed(program, office)["addresses"] == []
    assert listed(program, office)["name"] == "Acme"


def test_behind_a_trusted_proxy_the_list_is_about_the_hosts(proxied: Program) -> None:
    office = new_office()
    proxied.add([office])
    change(proxied, "add", office.number, "--address", "192.0.2.0/24")

    def status(forwarded: str) -> int:
        return proxied.post("start", body(office), ("X-Forwarded-For", forwarded)).status

    noticed(lambda: status("198.51.100.1") == 403, "the list is known")
    assert status("192.0.2.5") == 200
    assert status("192.0.2.5, 198.51.100.1") == 403, "what the host wrote itself is not believed"


# Signatures


def signed(office: Office, secret: str, raw: bytes, *, ago_s: float = 0.0) -> list[tuple[str, str]]:
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    message_id = f"msg_{time.monotonic_ns()}"
    return [
        ("Webhook-Id", message_id),
        ("Webhook-Timestamp", str(int(at.timestamp()))),
        ("Webhook-Signature", Webhook(secret).sign(message_id, at, raw.decode())),
    ]


def post_signed(program: Program, office: Office, secret: str, *, ago_s: float = 0.0) -> int:
    raw = body(office)
    return program.post("start", raw, *signed(office, secret, raw, ago_s=ago_s)).status


def make_secret(program: Program, office: Office, *options: str) -> str:
    done = program.cli("enterprise", "secret", office.number, *options)
    assert done.returncode == 0, done.stderr
    secret = done.stdout.strip()
    assert secret.startswith("whsec_")
    assert secret not in done.stderr
    program.secrets |= {secret, secret.removeprefix("whsec_")}
    return secret


def test_secrets_rotate_without_losing_an_event_and_are_never_shown_again(program: Program, office: Office) -> None:
    first = make_secret(program, office)
    noticed(lambda: post_signed(program, office, f"{first[:-4]}AAA=") == 403, "the first secret is known")
    assert post_signed(program, office, first) == 200
    assert program.post("start", body(office)).status == 200, "unsigned ones are taken still"
    assert listed(program, office) | {"signature": "accepted", "secrets": 1} == listed(program, office)

    second = make_secret(program, office)
    noticed(lambda: post_signed(program, office, second) == 200, "the second secret is known")
    assert post_signed(program, office, first) == 200, "both are valid"
    change(program, "secret", office.number, "--retire")
    noticed(lambda: post_signed(program, office, first) == 403, "the first one is retired")
    assert post_signed(program, office, second) == 200

    texts = [change(program, "list"), change(program, "list", "--json"), program.cli("subscriber", "list").stdout]
    assert not [secret for secret in program.secrets for text in texts if secret in text]
    refused = program.post("start", body(office), *signed(office, first, b"another body"))
    assert not [secret for secret in program.secrets if secret.encode() in refused.body]


def test_what_must_be_signed_is_refused_unsigned_with_the_remedy(program: Program, office: Office) -> None:
    secret = make_secret(program, office, "--require-signature")
    noticed(lambda: program.post("start", body(office)).status == 403, "signatures are required")
    before = program.stored(office)
    for headers, field in (
        ([], "webhook-signature"),
        ([("webhook-id", "msg_1")], "webhook-signature"),
        (signed(office, secret, b"another body"), "webhook-signature"),
        (signed(office, secret, body(office), ago_s=600), "webhook-timestamp"),
    ):
        refused = program.post("start", body(office), *headers)
        assert (refused.status, refused.json["field"]) == (403, field)
        assert field in refused.json["error"]
    assert program.stored(office) == before
    raw = body(office)
    headers = signed(office, secret, raw)
    assert program.post("start", raw, *headers).json == {"ok": True}
    assert program.post("hangup", raw, *headers).json == {"ok": True, "repeated": True}, "replayed on another route"
    assert program.stored(office) == [*before, raw]

    assert listed(program, office)["signature"] == "required"
    change(program, "add", office.number, "--no-require-signature")
    noticed(lambda: program.post("start", body(office)).status == 200, "they are not any more")
    change(program, "add", office.number, "--require-signature")
    change(program, "secret", office.number, "--remove")
    row = listed(program, office)
    assert (row["signature"], row["secrets"]) == ("none", 0)
