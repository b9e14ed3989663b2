"""Signed events, as any library of Standard Webhooks signs them: what is taken, and what a host at fault is told."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from callgram.context import Secret
from callgram.errors import IngestError
from callgram.signatures import check, key_of, new_secret, rotated

NOW = datetime(2025, 11, 29, 12, 0, tzinfo=UTC)
BODY = '{"Token": "375290000001", "CallerIDName": "Ёлка"}'.encode()
OLD, NEW, STRANGE = (Secret("whsec_" + base64.b64encode(bytes([at]) * 32).decode()) for at in range(3))


def signed(
    *secrets: Secret, body: bytes = BODY, at: datetime = NOW, message_id: str = "msg_1"
) -> dict[bytes, bytes]:
    """The headers that the library of the specification's authors makes."""
    made = " ".join(Webhook(one.reveal()).sign(message_id, at, body.decode()) for one in secrets)
    sent_at = str(int(at.timestamp()))
    return {
        b"webhook-id": message_id.encode(),
        b"webhook-timestamp": sent_at.encode(),
        b"webhook-signature": made.encode(),
    }


def refusal(headers: dict[bytes, bytes], *keys: Secret, body: bytes = BODY) -> IngestError:
    with pytest.raises(IngestError) as caught:
        check([found for one in keys if (found := key_of(one))], headers, body, NOW)
    for secret in (OLD, NEW, STRANGE):
        assert secret.reveal().removeprefix("whsec_") not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(signed(NEW), id="the new secret"),
        pytest.param(signed(OLD), id="the one of before"),
        pytest.param(signed(STRANGE, NEW), id="several, the second fits"),
        pytest.param(signed(NEW, at=NOW - timedelta(seconds=299)), id="almost five minutes ago"),
        pytest.param(signed(NEW, at=NOW + timedelta(seconds=299)), id="almost five minutes ahead"),
        pytest.param(
            signed(NEW) | {b"webhook-signature": b"v1a,xyz v2 , v1,n\xf6 " + signed(NEW)[b"webhook-signature"]},
            id="beside other versions and noise",
        ),
    ],
)
def test_what_one_of_two_secrets_has_signed_is_taken(headers: dict[bytes, bytes]) -> None:
    check([key for one in (NEW, OLD) if (key := key_of(one))], headers, BODY, NOW)


def test_a_body_that_is_no_utf_8_can_be_signed() -> None:
    """The reason for not using the library: names in callers' own code pages are read, and must not lose the event."""
    import hashlib
    import hmac

    body = b'{"CallerIDName": "\xcf\xf0\xe8\xe2\xe5\xf2"}'
    key = key_of(NEW)
    assert key is not None
    made = hmac.new(key, b"msg_1.%d." % NOW.timestamp() + body, hashlib.sha256).digest()
    check([key], signed(NEW) | {b"webhook-signature": b"v1," + base64.b64encode(made)}, body, NOW)


@pytest.mark.parametrize(
    ("headers", "field", "told"),
    [
        pytest.param({}, "webhook-signature", "missing", id="unsigned"),
        pytest.param(signed(NEW) | {b"webhook-signature": b" "}, "webhook-signature", "missing", id="empty"),
        pytest.param(signed(NEW) | {b"webhook-id": b""}, "webhook-id", "missing", id="no id"),
        pytest.param(signed(NEW) | {b"webhook-timestamp": b""}, "webhook-timestamp", "missing", id="no time"),
        pytest.param(signed(NEW) | {b"webhook-timestamp": b"now"}, "webhook-timestamp", "Unix time", id="no number"),
        pytest.param(signed(NEW) | {b"webhook-timestamp": b"-1"}, "webhook-timestamp", "Unix time", id="negative"),
        pytest.param(signed(NEW) | {b"webhook-timestamp": b"9" * 400}, "webhook-timestamp", "Unix time", id="huge"),
        pytest.param(
            signed(NEW, at=NOW - timedelta(seconds=301)), "webhook-timestamp", "301 s behind", id="too old"
        ),
        pytest.param(
            signed(NEW, at=NOW + timedelta(seconds=301)), "webhook-timestamp", "301 s ahead of", id="too new"
        ),
        pytest.param(signed(STRANGE), "webhook-signature", "does not fit", id="another secret"),
        pytest.param(signed(NEW, body=BODY + b" "), "webhook-signature", "does not fit", id="another body"),
        pytest.param(signed(NEW) | {b"webhook-id": b"msg_2"}, "webhook-signature", "does not fit", id="another id"),
        pytest.param(
            signed(NEW) | {b"webhook-timestamp": b"%d" % (NOW.timestamp() + 1)}, "webhook-signature", "fit", id="time"
        ),
        pytest.param(
            signed(NEW) | {b"webhook-signature": signed(NEW)[b"webhook-signature"][3:]},
            "webhook-signature",
            "does not fit",
            id="no version",
        ),
        pytest.param(
            signed(NEW) | {b"webhook-signature": b"v2," + signed(NEW)[b"webhook-signature"][3:]},
            "webhook-signature",
            "does not fit",
            id="another version",
        ),
        pytest.param(signed(NEW) | {b"webhook-signature": b"v1,"}, "webhook-signature", "fit", id="nothing in it"),
    ],
)
def test_what_is_not_signed_rightly_is_403_and_the_header_is_named(
    headers: dict[bytes, bytes], field: str, told: str
) -> None:
    error = refusal(headers, NEW, OLD)
    assert (error.status, error.field) == (403, field)
    assert str(error).startswith(f"{field} ")
    assert told in str(error)


def test_without_a_secret_nothing_fits() -> None:
    assert "does not fit" in str(refusal(signed(NEW)))


def test_secrets_are_made_new_each_time_and_as_the_specification_says() -> None:
    one, other = new_secret(), new_secret()
    assert one != other
    assert one.reveal().startswith("whsec_")
    assert len(key_of(one) or b"") == 32
    assert one.reveal() not in repr(one)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("whsec_AAECAwQF", b"\0\1\2\3\4\5", id="as it is made"),
        pytest.param("AAECAwQF", b"\0\1\2\3\4\5", id="without the prefix"),
        pytest.param(" whsec_AAECAwQ\n", b"\0\1\2\3\4", id="without the padding"),
        pytest.param("whsec_", None, id="empty"),
        pytest.param("whsec_пароль", None, id="no base64"),
        pytest.param("whsec_a", None, id="cut off"),
        pytest.param("whsec_AA*AA", None, id="a stranger in it"),
    ],
)
def test_a_key_is_read_or_known_to_be_none(text: str, key: bytes | None) -> None:
    assert key_of(Secret(text)) == key


@pytest.mark.parametrize(
    ("known", "after"),
    [
        pytest.param((), (NEW,), id="the first"),
        pytest.param((OLD,), (NEW, OLD), id="the second"),
        pytest.param((OLD, STRANGE), (NEW, OLD), id="the third ends the first"),
    ],
)
def test_two_secrets_are_valid_at_once(known: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    assert rotated(known, NEW) == after
