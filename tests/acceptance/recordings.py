"""Recorded calls, played as new ones, and the messages that they end in, read as a person reads them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from callgram.replay import Post, read

DATA = Path(__file__).parents[1] / "data"
HEADS = {
    "✅Успешный входящий звонок": ("incoming", "answered"),
    "✅Успешный исходящий звонок": ("outgoing", "answered"),
    "✅Успешный внутренний звонок": ("internal", "answered"),
    "❌Пропущенный входящий звонок": ("incoming", "missed"),
    "❌Неотвеченный исходящий звонок": ("outgoing", "missed"),
    "❌Неотвеченный внутренний звонок": ("internal", "missed"),
}


def with_token(body: bytes, token: str) -> bytes:
    """The same event of another enterprise, byte for byte elsewhere."""
    known = json.loads(body)["Token"]
    return body.replace(json.dumps(known).encode(), json.dumps(token).encode())


def as_new_call(posts: Sequence[Post], client: str, epoch: int) -> list[Post]:
    """The same recording as another call: its own ids, and ``client`` for the outside number of all recordings."""
    bridges: dict[str, str] = {}

    def bridge(found: re.Match[str]) -> str:
        return bridges.setdefault(found[0], str(uuid.uuid5(uuid.NAMESPACE_OID, f"{epoch} {found[0]}")))

    def changed(body: bytes) -> bytes:
        text = re.sub(r'"\d{10}(\.\d+")', rf'"{epoch}\1', body.decode())
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", bridge, text)
        return re.sub("375291112233|375290000111|375296254070", client, text).encode()

    return [msgspec.structs.replace(post, body=changed(post.body)) for post in posts]


def scenario(name: str) -> list[Post]:
    return read(DATA / "scenarios" / f"{name}.json")


def capture(name: str) -> list[Post]:
    return read(DATA / "captures" / f"{name}.http.jsonl")


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """The final message of a call, read as a person does. Numbers are digits."""

    direction: str
    result: str
    client: str = ""
    line: str = ""
    talker: str = ""
    caller: str = ""
    transfer: tuple[str, ...] = ()


def read_final(text: str) -> Final | None:
    """``None``: this is no final message."""
    head, *lines = text.split("\n")
    if head not in HEADS:
        return None
    direction, result = HEADS[head]
    parties = [_digits(party) for line in lines for party in re.findall(r"☎️([^➡️]*)", line)]
    internal = direction == "internal"
    return Final(
        direction=direction,
        result=result,
        client=_digits(_behind("💰", lines)),
        line=_behind("📡", lines),
        talker=parties[-1] if parties and result == "answered" else "",
        caller=parties[0] if parties and internal else "",
        transfer=tuple(map(_digits, _behind("(перевод:", lines).split("→"))) if _behind("(перевод:", lines) else (),
    )


def is_final(text: str) -> bool:
    return read_final(text) is not None


def _behind(mark: str, lines: Iterable[str]) -> str:
    return next((line.removeprefix(mark).strip() for line in lines if line.startswith(mark)), "")


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)
