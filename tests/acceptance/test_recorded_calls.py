"""Every recorded call, posted to the running program as its host posted it, leaves what its expectation says: one final
message in each chat and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from callgram.replay import read

from .harness import SUPERUSER, Office, Program, Telegram, new_office
from .recordings import DATA, Final, read_final


def expectations() -> dict[Path, Any]:
    captures = json.loads((DATA / "captures" / "expected.json").read_text())
    found = {DATA / "captures" / name: expected for name, expected in captures.items()}
    for path in sorted((DATA / "scenarios").glob("*.json")):
        found[path] = json.loads(path.read_text())["expect"]
    return found


EXPECTED = expectations()


@pytest.fixture(scope="module")
def played(shared: Any) -> dict[Path, Office]:
    """All recordings at once, each as an enterprise of its own: played once, looked at by every test below."""
    program: Program = shared[0]
    offices = {path: new_office() for path in EXPECTED}
    program.add(list(offices.values()))
    program.play([(office, read(path)) for path, office in offices.items()], speed=10)
    program.settled(*offices.values(), deadline_s=60)
    return offices


def test_every_recording_has_an_expectation() -> None:
    recorded = {*(DATA / "captures").rglob("*.http.jsonl"), *(DATA / "scenarios").glob("*.json")}
    assert recorded == set(EXPECTED)


@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in EXPECTED])
def test_a_recorded_call_leaves_its_one_final_message_in_each_chat(
    path: Path, played: dict[Path, Office], telegram: Telegram
) -> None:
    office, expected = played[path], EXPECTED[path]
    for chat in (*office.chats, SUPERUSER):
        texts = telegram.texts(office.bot, chat)
        finals = [final for final in map(read_final, texts) if final is not None]
        assert len(finals) == sum(call["finals"] for call in expected["calls"]), texts
        assert len(texts) - len(finals) == expected["leftovers"], texts
        wanted = sorted((call for call in expected["calls"] if call["finals"]), key=lambda call: call["client"])
        for call, final in zip(wanted, sorted(finals, key=lambda final: final.client), strict=True):
            assert differences(call, final) == {}, texts
    assert telegram.chats(office.bot) == {*office.chats, SUPERUSER}


def differences(call: Mapping[str, Any], final: Final) -> dict[str, Any]:
    """What the final message says otherwise than ``call``: ``{field: (wanted, shown)}``. What is not expected is not compared."""
    wanted = {name: call[name] for name in ("direction", "result", "client", "line", "caller") if name in call}
    if call.get("answered_by"):
        wanted["talker"] = call.get("transferred_to") or call["answered_by"]
    if call.get("transferred_to"):
        wanted["transfer"] = (call["answered_by"], call["transferred_to"])
    return {name: (value, getattr(final, name)) for name, value in wanted.items() if getattr(final, name) != value}
