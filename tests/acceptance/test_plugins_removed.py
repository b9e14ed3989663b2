"""Each shipped plugin taken out of plugins.toml in turn: what then changes in the chats, and that nothing else does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from callgram.replay import Post

from .harness import SHIPPED, Office, Program, Telegram, new_office, plugins_toml
from .recordings import scenario

STAGES = {
    "📞 Входящий звонок": "start",
    "📞 Исходящий звонок": "dial",
    "☎️": "bridge",
    "✅": "hangup",
    "❌": "hangup",
}
RECORDINGS = ("incoming-cascade", "outgoing-answered", "internal-answered", "incoming-greeting-abandoned")
Seen = dict[str, list[tuple[str, str, str]]]


def stage_of(text: str) -> str:
    if text.startswith("📞 Входящий") and "☎️" in text:
        return "dial"
    return next(stage for head, stage in STAGES.items() if text.startswith(head))


def chat_of(recording: list[Post], program: Program, office: Office, telegram: Telegram) -> list[tuple[str, str, str]]:
    """What happens in a chat while a call is posted, event by event: ``[(send, edit or delete, stage, text)]``.

    Times and durations are left out of the texts. Both chats of the enterprise see the same.
    """
    since = telegram.ask(lambda state: state.truth.last_seq)
    for post in recording:
        program.tell(
            office, post.kind, **{name: value for name, value in json.loads(post.body).items() if name != "Token"}
        )
        program.settled(office)
    seen = []
    for chat in office.chats:
        stages: dict[int, str] = {}
        seen.append([])
        for one in telegram.truth(office.bot, chat):
            if one.seq > since:
                text = re.sub(r"[⏰⌛⏱].*", "", one.text or "").strip()
                stages[one.message_id] = stage_of(text) if text else stages[one.message_id]
                seen[-1].append((one.kind, stages[one.message_id], text))
    assert seen[0] == seen[1]
    return seen[0]


@pytest.fixture(scope="module")
def without(make_program: Callable[..., Program], telegram: Telegram) -> Callable[..., tuple[Program, Seen]]:
    """``without(*plugins)`` answers the program that runs without them, and what the chats saw of each recording."""
    program = make_program()

    def run(*plugins: str) -> tuple[Program, Seen]:
        if program.process is not None:
            assert program.stop() == 0
        names = [name for name in SHIPPED if name not in plugins]
        (program.work / "plugins.toml").write_text(plugins_toml(*names, start="{ hold_s = 0.0 }"))
        program.start()
        office = new_office()
        program.add([office])
        seen = {name: chat_of(scenario(name), program, office, telegram) for name in RECORDINGS}
        if "tracer" in plugins:
            assert program.trace_text(office) == ""
        else:
            assert program.trace(office)
        return program, seen

    return run


@pytest.fixture(scope="module")
def with_all(without: Callable[..., tuple[Program, Seen]]) -> Seen:
    return without()[1]


def test_all_of_them_show_every_stage(with_all: Seen) -> None:
    stages = {name: [(kind, stage) for kind, stage, _ in seen] for name, seen in with_all.items()}
    assert stages == {
        "incoming-cascade": [
            ("send", "start"),
            ("send", "dial"),
            ("delete", "start"),
            ("edit", "dial"),
            ("edit", "dial"),
            ("send", "bridge"),
            ("delete", "dial"),
            ("send", "hangup"),
            ("delete", "bridge"),
        ],
        "outgoing-answered": [
            ("send", "dial"),
            ("send", "bridge"),
            ("delete", "dial"),
            ("send", "hangup"),
            ("delete", "bridge"),
        ],
        "internal-answered": [("send", "bridge"), ("send", "hangup"), ("delete", "bridge")],
        "incoming-greeting-abandoned": [("send", "start"), ("send", "hangup"), ("delete", "start")],
    }


def changed(seen: Seen, with_all: Seen) -> dict[str, Any]:
    return {name: entries for name, entries in seen.items() if entries != with_all[name]}


def left(seen: list[tuple[str, str, str]], *stages: str) -> list[tuple[str, str, str]]:
    return [one for one in seen if one[1] not in stages]


def test_without_start_nothing_is_shown_before_a_phone_rings(
    without: Callable[..., tuple[Program, Seen]], with_all: Seen
) -> None:
    _, seen = without("start")
    assert changed(seen, with_all) == {
        name: left(with_all[name], "start") for name in ("incoming-cascade", "incoming-greeting-abandoned")
    }


def test_without_dial_nothing_is_shown_of_ringing(
    without: Callable[..., tuple[Program, Seen]], with_all: Seen
) -> None:
    _, seen = without("dial")
    cascade = left(with_all["incoming-cascade"], "dial", "start")
    start = with_all["incoming-cascade"][0]
    assert changed(seen, with_all) == {
        "incoming-cascade": [start, cascade[0], ("delete", "start", ""), *cascade[1:]],
        "outgoing-answered": left(with_all["outgoing-answered"], "dial"),
    }


def test_without_bridge_nothing_is_shown_of_talking(
    without: Callable[..., tuple[Program, Seen]], with_all: Seen
) -> None:
    _, seen = without("bridge")
    found = changed(seen, with_all)
    assert set(found) == {"incoming-cascade", "outgoing-answered"}
    for name, entries in found.items():
        rest = left(with_all[name], "bridge")
        ringing = [one for one in rest if one != ("delete", "dial", "")]
        assert entries == [*ringing, ("delete", "dial", "")]


def test_without_hangup_outside_calls_have_no_final_message(
    without: Callable[..., tuple[Program, Seen]], with_all: Seen
) -> None:
    _, seen = without("hangup")
    gone = {("delete", "bridge", ""), ("delete", "start", "")}
    found = changed(seen, with_all)
    assert set(found) == {"incoming-cascade", "outgoing-answered", "incoming-greeting-abandoned"}
    for name, entries in found.items():
        whole = left(with_all[name], "hangup")
        assert entries == (whole[:-1] if whole[-1] in gone else whole)


def test_without_internal_inside_calls_are_not_shown(
    without: Callable[..., tuple[Program, Seen]], with_all: Seen
) -> None:
    _, seen = without("internal")
    assert changed(seen, with_all) == {"internal-answered": []}


def test_without_tracer_and_simulator_the_chats_see_the_same_and_trace_and_command_are_gone(
    without: Callable[..., tuple[Program, Seen]], with_all: Seen
) -> None:
    program, seen = without("tracer", "simulator")
    assert changed(seen, with_all) == {}
    missing = program.cli("simulator", "--help")
    assert missing.returncode == 2
    assert "No such command 'simulator'" in missing.stderr
    assert "  simulator" not in program.cli("--help").stdout


def test_an_enterprise_can_do_without_plugins_that_others_have(
    program: Program, special: dict[str, Office], office: Office, telegram: Telegram
) -> None:
    """``off`` of plugins.toml: here dial and tracer."""
    spare = special["spare"]
    seen = {one.number: chat_of(scenario("outgoing-answered"), program, one, telegram) for one in (spare, office)}
    assert [(kind, stage) for kind, stage, _ in seen[office.number]][:2] == [("send", "dial"), ("send", "bridge")]
    assert seen[spare.number] == left(seen[office.number], "dial")
    assert program.trace(office)
    assert program.trace_text(spare) == ""


def test_without_postgres_the_start_is_refused_with_the_remedy(make_program: Callable[..., Program]) -> None:
    program = make_program(plugins_toml(*[name for name in SHIPPED if name != "postgres"]))
    refused = program.cli("serve")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == ('callgram: no plugin of plugins.toml opens a store; add [[plugin]] name = "postgres"\n')
    listed = program.cli("enterprise", "list")
    assert (listed.returncode, listed.stderr) == (1, refused.stderr)
