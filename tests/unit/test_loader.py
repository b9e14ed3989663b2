"""The loader: which plugins come in, what is refused and why, and that a stranger's plugin harms nobody.

The strangers are in the distribution ``acme-callgram`` (tests/third_party), really installed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from callgram import Call, Chat, ConfigError, Context, Event, Kind, Message, Plan, PluginError, Stage
from callgram.calls.facts import opened
from callgram.calls.story import tell
from callgram.dispatch import Ending, Outcome
from callgram.loader import Plugins, Status, commands_of_plugins, load
from callgram.numbers import NumberPlan
from callgram.settings import Settings, parse_plugins

NOW = datetime(2025, 9, 14, 9, 5, 23, tzinfo=UTC)
SHIPPED = ("start", "dial", "bridge", "hangup", "internal")
HANGUP = Event(
    id=1,
    enterprise="0367",
    kind=Kind.HANGUP,
    received_at=NOW,
    unique_id="1.1",
    phone="375296254070",
    call_type=0,
    trunk="0001363",
    status="0",
)

pytestmark = pytest.mark.usefixtures("acme")


def plugins_file(*names: str, more: str = "", **entries: str) -> str:
    """The text of a plugins.toml that lists ``names``; ``entries`` are more lines of single entries."""
    listed = "".join(f'[[plugin]]\nname = "{name}"\n{entries.get(name, "")}\n' for name in names)
    return f"api = 1\nhook_deadline_s = 0.05\n{listed}\n{more}\n"


def settings(text: str) -> Settings:
    return Settings(plugins=parse_plugins(text, "plugins.toml"), plugins_path="plugins.toml")


class Loaded:
    """Plugins loaded from a text, and asking them as the planner and the sender do."""

    def __init__(self, *names: str, more: str = "", **entries: str) -> None:
        self.published: list[Outcome] = []
        self.plugins: Plugins = load(settings(plugins_file(*names, more=more, **entries)), self.published.append)

    def error(self, name: str) -> str:
        one = self.plugins.loaded[name]
        assert one.status is Status.FAILED
        return one.error

    def arguments(self, number: str | None, **given: Any) -> Any:
        return lambda plugin: {"ctx": Context(now=NOW, settings=self.plugins.settings(plugin, number)), **given}

    def drawn(self, number: str | None = None, stage: Stage = Stage.HANGUP) -> tuple[str, str]:
        """Who drew the message of a missed call, and its first line."""
        given = self.arguments(number, call=call(), stage=stage, chat=Chat(id=1))
        outcome = asyncio.run(self.plugins.dispatcher.first("render_message", self.plugins.enabled(number), given))
        assert outcome is not None
        assert isinstance(outcome.value, Message)
        return outcome.plugin, outcome.value.html.split("\n")[0]

    def every(self, hook: str, number: str | None = None, **given: Any) -> list[Outcome]:
        arguments = self.arguments(number, call=call(), event=HANGUP, **given)
        return asyncio.run(self.plugins.dispatcher.every(hook, self.plugins.enabled(number), arguments))


def call() -> Call:
    return tell(opened(HANGUP), NumberPlan())


# What comes in


def test_every_shipped_plugin_that_draws_loads_and_is_visible() -> None:
    loaded = Loaded(*SHIPPED)
    assert loaded.plugins.ok
    for name in SHIPPED:
        one = loaded.plugins.loaded[name]
        assert (one.status, one.distribution) == (Status.OK, "callgram")
        assert one.hooks == ("plan_message", "render_message")


def test_every_shipped_entry_point_loads() -> None:
    loaded = Loaded(*SHIPPED, "postgres", "tracer", "simulator")
    assert {name: one.error for name, one in loaded.plugins.loaded.items() if one.error} == {}


def test_a_stranger_s_plugin_loads_with_its_distribution_and_version() -> None:
    one = Loaded("acme_format").plugins.loaded["acme_format"]
    assert (one.status, one.distribution, one.version) == (Status.OK, "acme-callgram", "2.5")


def test_nothing_is_imported_that_plugins_toml_does_not_name() -> None:
    code = (
        "import sys; from callgram.loader import load; from callgram.settings import Settings, parse_plugins;"
        "file = parse_plugins('api = 1\\n[[plugin]]\\nname = \"dial\"\\n', 'x');"
        "load(Settings(plugins=file, plugins_path='x'), print);"
        "print(sorted(name for name in sys.modules if name.startswith(('callgram_', 'acme_'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['callgram_dial']"


# Order


def test_a_stranger_s_format_comes_first_without_any_setting_because_the_shipped_answer_last() -> None:
    assert Loaded("hangup", "acme_format").drawn() == ("acme_format", "ACME: incoming missed")


def test_what_a_stranger_passes_on_the_shipped_plugin_draws() -> None:
    assert Loaded("start", "acme_format").drawn(stage=Stage.START)[0] == "start"


def test_an_enterprise_s_own_plugins_come_first_and_are_asked_for_nobody_else() -> None:
    loaded = Loaded("hangup", more='[enterprise.0367]\nplugins = ["acme_format"]')
    assert loaded.drawn("0367")[0] == "acme_format"
    assert loaded.drawn("0368")[0] == "hangup"
    assert loaded.drawn(None)[0] == "hangup"
    assert loaded.plugins.enabled("0367") == ("acme_format", "hangup")


def test_an_enterprise_can_move_a_listed_plugin_to_the_front() -> None:
    loaded = Loaded("acme_sink", "acme_format", "hangup", more='[enterprise.0367]\nplugins = ["hangup"]')
    assert loaded.plugins.enabled("0367") == ("hangup", "acme_sink", "acme_format")


def test_an_enterprise_can_do_without_a_plugin() -> None:
    loaded = Loaded("acme_format", "hangup", more='[enterprise.0367]\noff = ["acme_format"]')
    assert loaded.drawn("0367")[0] == "hangup"
    assert loaded.drawn("0368")[0] == "acme_format"


# Settings


def test_settings_are_the_plugin_s_struct_with_its_defaults() -> None:
    given = Loaded("acme_format", acme_format="settings = { head = 'Ромашка' }").plugins.settings("acme_format", None)
    assert (given.head, given.width) == ("Ромашка", 20)


def test_an_enterprise_s_settings_are_laid_over_the_plugin_s() -> None:
    loaded = Loaded(
        "acme_format",
        acme_format="settings = { head = 'Ромашка', width = 4 }",
        more="[enterprise.0367]\nsettings = { acme_format = { head = 'Лютик' } }",
    )
    one, other = loaded.plugins.settings("acme_format", "0367"), loaded.plugins.settings("acme_format", "0368")
    assert (one.head, one.width) == ("Лютик", 4)
    assert (other.head, other.width) == ("Ромашка", 4)
    assert loaded.drawn("0367") == ("acme_format", "Лютик: incoming missed")


WRONG_SETTINGS = [
    pytest.param(
        {"acme_format": "settings = { haed = 'x' }"},
        "",
        ["acme_format", "haed", "settings", "head, width"],
        id="unknown key",
    ),
    pytest.param(
        {"acme_format": "settings = { width = 'wide' }"}, "", ["acme_format", "settings.width", "int"], id="wrong type"
    ),
    pytest.param(
        {},
        "[enterprise.0367]\nsettings = { acme_format = { haed = 'x' } }",
        ["acme_format", "haed", "enterprise.0367.settings"],
        id="unknown key of an enterprise",
    ),
    pytest.param(
        {},
        "[enterprise.0367]\nsettings = { acme_format = { width = 'wide' } }",
        ["acme_format", "enterprise.0367.settings.width"],
        id="wrong type of an enterprise",
    ),
    pytest.param(
        {"dial": "settings = { loud = true }"}, "", ["dial", "no settings", "loud"], id="plugin without settings"
    ),
    pytest.param(
        {},
        "[enterprise.0367]\nsettings = { dial = { loud = true } }",
        ["dial", "no settings", "enterprise.0367"],
        id="plugin without settings, of an enterprise",
    ),
]


@pytest.mark.parametrize(("entries", "more", "said"), WRONG_SETTINGS)
def test_wrong_settings_stop_the_start_and_name_the_plugin_the_place_and_the_key(
    entries: dict[str, str], more: str, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Loaded("acme_format", "dial", more=more, **entries)
    assert [word for word in said if word not in str(caught.value)] == []


# What is refused

REFUSED = [
    pytest.param("acme_missing", "not installed", id="no such entry point"),
    pytest.param("acme_not_there", "ModuleNotFoundError", id="no such module"),
    pytest.param("acme_exits_at_import", "SystemExit: acme does not like this machine", id="exits at import"),
    pytest.param("acme_raises_when_made", "ValueError: acme has no licence", id="raises when it is made"),
    pytest.param("acme_old_api", "written for plugin API 0, this callgram has 1", id="another API"),
    pytest.param("acme_wrong_sync", "hook render_message must be `async def`", id="sync hook"),
    pytest.param("acme_wrong_wrapper", "render_message", id="wrapper"),
    pytest.param("acme_wrong_tryfirst", "tryfirst", id="tryfirst"),
    pytest.param("acme_wrong_default", "default arguments are not taken", id="default argument"),
    pytest.param("acme_wrong_argument", "weather", id="unknown argument"),
    pytest.param("acme_wrong_hook", "render_mesage", id="unknown hook"),
    pytest.param("acme_wrong_settings", "Settings", id="settings that are no struct"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_a_plugin_that_cannot_be_used_degrades_visibly_and_the_others_go_on(name: str, reason: str) -> None:
    loaded = Loaded(name, *SHIPPED)
    assert reason in loaded.error(name)
    assert not loaded.plugins.ok
    assert loaded.drawn()[0] == "hangup"


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_a_required_plugin_that_cannot_be_used_stops_the_start_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(PluginError) as caught:
        Loaded(name, *SHIPPED, **{name: "required = true"})
    assert caught.value.plugin == name
    assert name in str(caught.value)
    assert "required" in str(caught.value)
    assert reason in str(caught.value)


def test_a_tolerant_load_shows_the_required_plugin_as_failed() -> None:
    text = plugins_file("acme_missing", "dial", acme_missing="required = true")
    plugins = load(settings(text), lambda outcome: None, tolerant=True)
    assert {name: one.status for name, one in plugins.loaded.items()} == {
        "acme_missing": Status.FAILED,
        "dial": Status.OK,
    }


def test_a_failed_plugin_has_no_hook_that_could_be_asked() -> None:
    loaded = Loaded("acme_old_api", "hangup")
    assert loaded.plugins.loaded["acme_old_api"].hooks == ()
    assert loaded.plugins.dispatcher.plugins("render_message") == ("hangup",)


def test_a_plugin_whose_startup_failed_is_taken_out() -> None:
    loaded = Loaded("acme_raises_at_start", "hangup")
    (outcome,) = [one for one in loaded.every("startup") if one.ending.failed]
    loaded.plugins.take_out(outcome.plugin, outcome.error)
    assert loaded.error("acme_raises_at_start") == "OSError: acme cannot reach its server"
    assert not loaded.plugins.ok
    assert loaded.drawn()[0] == "hangup"


# None of them harms the shipped ones

STRANGERS = ("acme_raises", "acme_hangs", "acme_exits", "acme_sink", "acme_raises_at_start")


def test_a_call_is_planned_and_drawn_although_strangers_raise_hang_and_exit() -> None:
    loaded = Loaded("acme_raises", "acme_hangs", "acme_exits", *SHIPPED)
    plans = {outcome.plugin: outcome.value for outcome in loaded.every("plan_message") if outcome.value is not None}
    assert list(plans) == ["hangup"]
    assert isinstance(plans["hangup"], Plan)
    assert plans["hangup"].stage is Stage.HANGUP
    assert loaded.drawn() == ("hangup", "❌Пропущенный входящий звонок")


def test_each_misdeed_is_published_against_the_one_that_did_it() -> None:
    loaded = Loaded("acme_raises", "acme_hangs", "acme_exits", *SHIPPED)
    loaded.every("plan_message")
    ended = {outcome.plugin: (outcome.ending, outcome.error) for outcome in loaded.published}
    assert ended["acme_raises"] == (Ending.RAISED, "AcmeError: plan_message")
    assert ended["acme_hangs"] == (Ending.TIMED_OUT, "no answer within 0.05 s")
    assert ended["acme_exits"] == (Ending.RAISED, "SystemExit: acme has seen enough of plan_message")
    assert {ended[name][0] for name in SHIPPED} == {Ending.PASSED, Ending.ANSWERED}


def test_an_event_reaches_a_stranger_s_sink_behind_strangers_that_misbehave(tmp_path: Path) -> None:
    path = tmp_path / "told.txt"
    loaded = Loaded(*STRANGERS, acme_sink=f"settings = {{ path = '{path}' }}")
    loaded.every("on_event")
    assert path.read_text("utf-8") == "event 0367 hangup 1.1\n"
    assert loaded.plugins.loaded["acme_sink"].plugin.told == ["event 0367 hangup 1.1"]


@pytest.mark.parametrize(
    "hook", ["on_telegram_action", "enrich_call", "http_routes", "open_store", "shutdown", "on_callback"]
)
def test_a_hook_that_raises_is_contained_whichever_it_is(hook: str) -> None:
    loaded = Loaded("acme_raises", "acme_exits", *SHIPPED)
    outcomes = loaded.every(hook, action=None, query={})
    assert [outcome.error for outcome in outcomes if outcome.plugin == "acme_raises"] == [f"AcmeError: {hook}"]


def test_an_entry_s_own_deadline_wins_over_the_file_s() -> None:
    loaded = Loaded("acme_hangs", acme_hangs="deadline_s = 0.01")
    loaded.every("on_event")
    assert loaded.published[0].error == "no answer within 0.01 s"


# The command line


@pytest.fixture
def plugins_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "plugins.toml"
    monkeypatch.setenv("CALLGRAM_PLUGINS", str(path))
    monkeypatch.setenv("CALLGRAM_DATA_DIR", str(tmp_path))
    return path


BROKEN = [
    pytest.param("api = ", id="no TOML"),
    pytest.param("api = 99\nplugin = []", id="another API"),
    pytest.param("api = 1\nplugins = []", id="unknown key"),
    pytest.param(plugins_file("acme_format", acme_format="settings = { haed = 1 }"), id="wrong settings"),
]


@pytest.mark.parametrize("text", BROKEN)
def test_the_command_line_survives_a_broken_plugins_toml(plugins_toml: Path, text: str) -> None:
    plugins_toml.write_text(text, "utf-8")
    assert commands_of_plugins() == []


def test_the_command_line_survives_a_plugins_toml_that_is_not_there(plugins_toml: Path) -> None:
    assert not plugins_toml.exists()
    assert commands_of_plugins() == []


@pytest.mark.parametrize("name", ["acme_missing", "acme_exits_at_import", "acme_raises", "acme_wrong_settings"])
def test_the_command_line_survives_a_stranger_s_plugin(plugins_toml: Path, name: str) -> None:
    plugins_toml.write_text(plugins_file(name, "simulator", **{name: "required = true"}), "utf-8")
    assert [command.name for command in commands_of_plugins()] == ["simulator"]
