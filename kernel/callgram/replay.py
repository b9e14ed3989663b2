"""Replay: posts recorded calls again, at their own pace, as a host would: one queue, in order, no retry.

Reads scenarios (``.json``), captures (``.jsonl``, one request a line) and trace files (any other name, through the tracer
plugin's ``parse_line``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from callgram.errors import ConfigError
from callgram.events import POSTED
from callgram.tracelines import HALF

_KINDS = frozenset(str(kind) for kind in POSTED)


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded request: ``at_s`` seconds after the recording began. The body is kept byte for byte where it was."""

    at_s: float
    kind: str
    body: bytes
    headers: dict[str, str] = {}


class Played(msgspec.Struct, kw_only=True):
    """How a replay went."""

    n_posted: int = 0
    n_refused: int = 0
    first_refusal: str = ""


def read(path: Path) -> list[Post]:
    """Read one recording.

    Raises:
        ConfigError: it is none; file and line are named.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if path.suffix == ".json":
        return _scenario(path, text)
    return _capture(path, text) if path.suffix == ".jsonl" else _trace_file(path, text)


def _scenario(path: Path, text: str) -> list[Post]:
    try:
        events = json.loads(text)["events"]
        return [
            Post(at_s=event["at_s"], kind=_kind(event["path"]), body=json.dumps(event["body"]).encode())
            for event in events
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{path}: no scenario: {error!r}; want {{"events": [{{at_s, path, body}}]}}') from None


def _capture(path: Path, text: str) -> list[Post]:
    posts: list[Post] = []
    began: float | None = None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            request = json.loads(line)
            kind, at = _kind(request["path"]), float(request["time"])
            body = request.get("body_raw") or json.dumps(request["body"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: no recorded request: {error!r}") from None
        began = at if began is None else began
        if kind in _KINDS:
            posts.append(Post(at_s=at - began, kind=kind, body=body.encode()))
    return posts


def _trace_file(path: Path, text: str) -> list[Post]:
    parse_line = _parse_line()
    posts: list[Post] = []
    began = None
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            parsed = parse_line(line)
        except ValueError as error:
            if HALF in line or not line.endswith("\n"):  # the whole line follows, or is still on its way
                continue
            raise ConfigError(f"{path}, line {number}: {error}") from None
        if parsed.source != "AST":
            continue
        began = began or parsed.at
        posts.append(Post(at_s=(parsed.at - began).total_seconds(), kind=parsed.what, body=parsed.body))
    return posts


def _parse_line() -> Callable[[str], Any]:
    """The tracer knows its own format; the kernel does not know the tracer."""
    point = next((point for point in entry_points(group="callgram.plugins") if point.name == "tracer"), None)
    if point is None:
        raise ConfigError("the tracer plugin is not installed, so its files cannot be read")
    module = __import__(point.module, fromlist=["parse_line"])
    parse_line: Callable[[str], Any] = module.parse_line
    return parse_line


def _kind(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def with_token(body: bytes, token: str) -> bytes:
    """The same event for another enterprise."""
    return json.dumps(json.loads(body) | {"Token": token}, ensure_ascii=False).encode()


async def replay_all(
    recordings: Sequence[Sequence[Post]], url: str, *, speed: float = 1.0, token: str | None = None
) -> Played:
    """Post the recordings one after another. ``speed`` 10 is ten times as fast."""
    import aiohttp

    played = Played()
    async with aiohttp.ClientSession() as client:
        for posts in recordings:
            began = asyncio.get_running_loop().time()
            for post in posts:
                wait = began + post.at_s / speed - asyncio.get_running_loop().time()
                if wait > 0:
                    await asyncio.sleep(wait)
                body = with_token(post.body, token) if token else post.body
                await _post(client, f"{url}/{post.kind}", body, post.headers, played)
    return played


async def _post(client: Any, url: str, body: bytes, headers: dict[str, str], played: Played) -> None:
    import aiohttp

    try:
        async with client.post(url, data=body, headers={"Content-Type": "application/json", **headers}) as answer:
            text = await answer.text()
            refusal = "" if answer.status == 200 else f"{answer.status} {text}"
    except aiohttp.ClientError as error:
        refusal = f"{url}: {type(error).__name__}; is callgram serve running there?"
    if refusal:
        played.n_refused += 1
        played.first_refusal = played.first_refusal or refusal
    else:
        played.n_posted += 1
