"""Signatures: events signed as Standard Webhooks says, with a secret that the enterprise's hosts share with callgram.

HMAC-SHA256 over ``webhook-id.webhook-timestamp.body``, as ``v1,<base64>`` in ``webhook-signature``, several of them separated
by spaces (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md). Not by the package of that project: it
decodes the body as UTF-8, and so would lose events with a caller's name in another code. The tests sign with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime

from callgram.context import Secret
from callgram.errors import IngestError

PREFIX = "whsec_"
TOLERANCE_S = 300  # what the specification's libraries allow; inside of it the webhook-id recognises a replay
KEY_BYTES = 32  # the specification wants 24 to 64
VALID_AT_ONCE = 2  # secrets of an enterprise: the new one, and the one that its hosts still have
ID, SENT_AT, SIGNATURE = b"webhook-id", b"webhook-timestamp", b"webhook-signature"
HEADERS = frozenset({ID, SENT_AT, SIGNATURE})


def new_secret() -> Secret:
    return Secret(PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())


def rotated(known: tuple[Secret, ...], new: Secret) -> tuple[Secret, ...]:
    """``new`` first; of those that were valid before only the newest stays so."""
    return (new, *known)[:VALID_AT_ONCE]


def key_of(secret: Secret) -> bytes | None:
    """The key in a ``whsec_…``; ``None`` when there is none in it, as after a change by hand."""
    text = secret.reveal().strip().removeprefix(PREFIX)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def check(keys: Iterable[bytes], headers: Mapping[bytes, bytes], body: bytes, now: datetime) -> None:
    """Return when one of ``keys`` has signed ``body`` and its headers.

    Raises:
        IngestError: 403, naming the header at fault and what to do.
    """
    message_id, sent_at, given = (headers.get(name, b"").strip() for name in (ID, SENT_AT, SIGNATURE))
    for name, value in ((SIGNATURE, given), (ID, message_id), (SENT_AT, sent_at)):
        if not value:
            raise _refused(name, "is missing; sign events with the enterprise's secret, as docs/events.md says")
    if not re.fullmatch(rb"[0-9]{1,12}", sent_at):
        raise _refused(SENT_AT, "is no whole number; send the Unix time in seconds")
    off_s = int(sent_at) - now.timestamp()
    if abs(off_s) > TOLERANCE_S:
        off = f"{abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} this clock"
        raise _refused(SENT_AT, f"is {off}, at most {TOLERANCE_S} s are allowed; set the host's clock")
    signed = b".".join((message_id, sent_at, body))
    offered = [value for version, _, value in (one.partition(b",") for one in given.split()) if version == b"v1"]
    for key in keys:
        expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
        if any(hmac.compare_digest(expected, value) for value in offered):
            return
    raise _refused(SIGNATURE, "does not fit; sign webhook-id.webhook-timestamp.body, unchanged, with the enterprise's secret")


def _refused(name: bytes, why: str) -> IngestError:
    return IngestError(403, f"{name.decode()} {why}", field=name.decode())
