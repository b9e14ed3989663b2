"""The world of the benchmarks: sixteen enterprises with three chats each, and the events that their hosts post."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.load import request

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
NOW = 1_757_840_000


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    number: str
    token: str
    bot_token: str
    chats: tuple[int, ...]


ENTERPRISES = tuple(
    Tenant(
        number=f"{367 + place:04d}",
        token=f"3752900000{place:02d}",
        bot_token=f"{700_001 + place}:{'A' * 35}",
        chats=tuple(5000 + 10 * place + chat for chat in range(3)),
    )
    for place in range(16)
)
_serial = itertools.count(1)
"""Everything of one run has numbers of its own, so that nothing repeats anything."""


def captured(n_requests: int) -> list[bytes]:
    """What real hosts posted, again and again, each time as other calls of other enterprises."""
    seen = [
        msgspec.json.decode(line)
        for file in sorted(CAPTURES.glob("*/*.agent.http.jsonl"))
        for line in file.read_bytes().splitlines()
    ]
    posts = [(entry["path"].rpartition("/")[2], entry["body"]) for entry in seen if isinstance(entry.get("body"), dict)]
    return [_renewed(*post, next(_serial)) for post in itertools.islice(itertools.cycle(posts), n_requests)]


def _renewed(kind: str, body: dict[str, Any], serial: int) -> bytes:
    renewed = body | {"Token": ENTERPRISES[serial % len(ENTERPRISES)].token, "UniqueId": f"{NOW}.{serial}"}
    return request(f"/{kind}", msgspec.json.encode(renewed))


def unanswered(n_calls: int) -> list[bytes]:
    """Internal calls that nobody answered: of each one hangup comes, and each chat gets one message."""
    about = {"Phone": "152", "Extensions": ["150"], "CallType": 2, "CallStatus": "0"}
    return [_post("hangup", serial, about) for serial in _take(n_calls)]


def ringing(n_calls: int) -> list[tuple[str, bytes]]:
    """``[(the client's number, the request)]`` of incoming calls that begin to ring: one message in each chat."""
    calls = []
    for serial in _take(n_calls):
        client = client_of(serial)
        about = {"Phone": client, "Extensions": ["150", "151"], "CallType": 0, "Trunk": "0001363"}
        calls.append((client, _post("dial", serial, about)))
    return calls


def whole_calls(n_calls: int) -> Iterator[tuple[bytes, ...]]:
    """Incoming calls with everything that a host says about them, in order."""
    for serial in _take(n_calls):
        client, bridge = client_of(serial), {"BridgeUniqueid": f"bridge-{serial}"}
        ends = {"Phone": client, "CallType": 0, "Trunk": "0001363"}
        leg = {"Channel": f"SIP/151-{serial:08x}", "Exten": "", "CallerIDNum": "151", "ConnectedLineNum": client}
        head = {"Channel": f"SIP/0001363-{serial:08x}", "Exten": "0001363", "CallerIDNum": client, "ConnectedLineNum": "151"}
        yield (
            _post("start", serial, ends),
            _post("dial", serial, {**ends, "Extensions": ["150", "151"]}),
            _post("bridge", serial, {**head, **bridge}),
            _post("bridge", serial, {**leg, **bridge}, leg=1),
            _post("hangup", serial, {**ends, "Extensions": ["151"], "CallStatus": "2"}),
        )


def client_of(serial: int) -> str:
    return f"37529{6_000_000 + serial:07d}"


def _take(n_calls: int) -> list[int]:
    return list(itertools.islice(_serial, n_calls))


def _post(kind: str, serial: int, about: dict[str, Any], *, leg: int = 0) -> bytes:
    tenant = ENTERPRISES[serial % len(ENTERPRISES)]
    body = {"Token": tenant.token, "UniqueId": f"{NOW + leg}.{serial}", **about}
    return request(f"/{kind}", msgspec.json.encode(body))
