"""The command line beside a running serve: what it changes is noticed within a second; what it refuses is one line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..serve import until, users
from .harness import SHIPPED, SUPERUSER, Office, Program, Telegram, new_office, plugins_toml
from .recordings import DATA, is_final

NOTICED_S = 5.0  # a second is promised; a busy machine may take some more
DIAL = {"Phone": "375296254070", "CallType": 0, "Extensions": ["150"]}
_serial = itertools.count(1)


@pytest.fixture(scope="module")
def idle(make_program: Callable[..., Program]) -> Program:
    """A program that nobody has started."""
    return make_program(embedded=True)


def until_shown_in(program: Program, office: Office, telegram: Telegram, chats: set[int]) -> None:
    """Calls come until one is shown in these chats and no other."""

    def shown() -> bool:
        since = telegram.ask(lambda state: state.truth.last_seq)
        program.tell(office, "dial", UniqueId=f"1757880001.{next(_serial)}", **DIAL)
        program.settled(office)
        return {one.chat_id for one in telegram.truth(office.bot) if one.seq > since} == chats

    until(shown, f"calls are shown in {chats}", NOTICED_S)


def test_a_new_enterprise_and_its_chats_are_served_within_a_second(program: Program, telegram: Telegram) -> None:
    office, event = new_office(), {"UniqueId": "1757880000.6"}
    program.secrets |= {office.token, office.bot_token}
    assert program.post("new_callerid", {"Token": office.token, **event}).status == 403
    added = program.cli("enterprise", "add", office.number, "--token", office.token, "--bot-token", office.bot_token)
    assert (added.returncode, added.stderr) == (0, "")
    assert (
        added.stdout
        == f"enterprise {office.number}: bot {office.bot}. Next: callgram subscriber add {office.number} CHAT_ID\n"
    )
    until(lambda: program.post("new_callerid", {"Token": office.token, **event}).status == 200, "it is known", NOTICED_S)
    for chat in office.chats:
        assert program.cli("subscriber", "add", office.number, str(chat)).stdout == f"chat {chat} is subscribed\n"
    again = program.cli("subscriber", "add", office.number, str(office.chats[0]))
    assert (again.returncode, again.stdout) == (0, f"chat {office.chats[0]} was subscribed already\n")
    until(lambda: program.get("/health/ready").status == 200, "its bot is owned")
    until_shown_in(program, office, telegram, {*office.chats, SUPERUSER})


def test_the_first_message_of_a_new_bot_comes_within_a_second(program: Program, telegram: Telegram) -> None:
    office = new_office()
    program.secrets |= {office.token, office.bot_token}
    program.cli("enterprise", "add", office.number, "--token", office.token, "--bot-token", office.bot_token)
    dial = {"Token": office.token, "UniqueId": "1757880002.6", **DIAL}
    until(lambda: program.post("dial", dial).status == 200, "it is known", NOTICED_S)
    until(lambda: telegram.texts(office.bot, SUPERUSER), "the superuser sees the call", NOTICED_S)


def test_a_muted_chat_gets_nothing_and_the_trace_says_so(program: Program, office: Office, telegram: Telegram) -> None:
    muted, *others = office.chats
    done = program.cli("subscriber", "mute", office.number, str(muted), "--hours", "1")
    assert done.stdout.startswith(f"chat {muted} is muted until ")
    assert "muted until" in program.cli("subscriber", "list", office.number).stdout
    until_shown_in(program, office, telegram, {*others, SUPERUSER})
    skipped = {(line.chat_id, line.text.partition(":")[0]) for line in program.trace(office) if line.what == "skip"}
    assert (muted, "muted") in skipped
    assert program.cli("subscriber", "mute", office.number, str(muted), "--hours", "0").stdout.endswith("is not muted\n")


def test_a_removed_chat_gets_nothing_more(program: Program, office: Office, telegram: Telegram) -> None:
    removed, *others = office.chats
    done = program.cli("subscriber", "remove", office.number, str(removed))
    assert (done.returncode, done.stdout) == (0, f"chat {removed} is no longer subscribed\n")
    until_shown_in(program, office, telegram, {*others, SUPERUSER})


def test_a_changed_token_replaces_the_old_one_within_a_second(program: Program, office: Office) -> None:
    new = f"{office.token}77"
    event = {"UniqueId": "1757880003.6"}
    assert program.post("new_callerid", {"Token": office.token, **event}).status == 200
    program.cli("enterprise", "add", office.number, "--token", new, "--bot-token", office.bot_token)
    until(lambda: program.post("new_callerid", {"Token": new, **event}).status == 200, "the new one is known", NOTICED_S)
    assert program.post("new_callerid", {"Token": office.token, **event}).status == 403


def test_the_lists_show_no_secret(program: Program, office: Office) -> None:
    listed = json.loads(program.cli("enterprise", "list", "--json").stdout)
    own = {"number": office.number, "name": "", "bot": office.bot, "chats": len(office.chats)}
    assert own | {"addresses": [], "signature": "none", "secrets": 0} in listed
    texts = [program.cli("enterprise", "list").stdout, program.cli("subscriber", "list").stdout, json.dumps(listed)]
    assert all(str(chat) in texts[1] for chat in office.chats)
    assert not [secret for secret in program.secrets for text in texts if secret in text]


def test_commands_work_without_a_serve_and_leave_no_process(idle: Program) -> None:
    program, office = idle, new_office()
    program.secrets |= {office.token, office.bot_token}
    done = program.cli("enterprise", "add", office.number, "--token", office.token, "--bot-token", office.bot_token)
    assert (done.returncode, done.stderr) == (0, "")
    assert not users(program.base)
    (listed,) = json.loads(program.cli("enterprise", "list", "--json").stdout)
    assert listed["number"] == office.number
    assert not users(program.base)


def test_plugins_lists_what_became_of_each(program: Program, tmp_path: Path) -> None:
    listed = program.cli("plugins", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    found = json.loads(listed.stdout)
    assert [(one["name"], one["status"], one["error"]) for one in found] == [(name, "ok", "") for name in SHIPPED]
    assert all(one["distribution"] == "callgram" and one["hooks"] for one in found)
    assert program.cli("plugins").returncode == 0
    (tmp_path / "broken.toml").write_text(plugins_toml() + '[[plugin]]\nname = "acme_crm"\n')
    for options in (["--json"], []):
        broken = program.cli("plugins", *options, CALLGRAM_PLUGINS=str(tmp_path / "broken.toml"))
        assert broken.returncode == 1
        assert "acme_crm" in broken.stdout
        assert "not installed" in broken.stdout


def test_replay_posts_a_scenario_and_says_how_it_went(program: Program, office: Office, telegram: Telegram) -> None:
    path = str(DATA / "scenarios" / "outgoing-answered.json")
    options = ["--url", program.url, "--speed", "50"]
    done = program.cli("replay", path, *options, "--token", office.token)
    assert (done.returncode, done.stdout, done.stderr) == (0, "9 events posted, 0 refused\n", "")
    program.settled(office)
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert is_final(text)
    port = program.url.rpartition(":")[2]
    refused = program.cli("replay", path, "--speed", "50", "--token", "nobody's", CALLGRAM_PORT=port)
    assert (refused.returncode, refused.stdout) == (1, "0 events posted, 9 refused\n")
    assert_one_line(refused.stderr, "403", "unknown Token")


def assert_one_line(stderr: str, *parts: str) -> None:
    assert stderr.startswith("callgram: "), stderr
    assert stderr.count("\n") == 1, stderr
    for part in parts:
        assert part in stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        pytest.param(["subscriber", "add", "9999", "5"], ["9999"], id="subscriber of an unknown enterprise"),
        pytest.param(
            ["subscriber", "remove", "9999", "5"], ["9999", "not subscribed"], id="remove from an unknown one"
        ),
        pytest.param(["subscriber", "resume", "9999", "5"], ["9999"], id="resume of an unknown one"),
        pytest.param(["subscriber", "mute", "9999", "5"], ["9999", "not subscribed"], id="mute of an unknown one"),
        pytest.param(["subscriber", "add", "9999", "0"], ["CHAT_ID is 0"], id="chat 0"),
        pytest.param(["subscriber", "list", "9999"], ["no enterprise 9999"], id="chats of an unknown one"),
        pytest.param(
            ["enterprise", "add", "9 9", "--token", "t", "--bot-token", "1:a"], ["NUMBER"], id="a number with a space"
        ),
        pytest.param(
            ["enterprise", "add", "9", "--token", " ", "--bot-token", "1:a"], ["--token"], id="an empty token"
        ),
        pytest.param(
            ["enterprise", "add", "9", "--token", "t", "--bot-token", "a"],
            ["--bot-token"],
            id="a bot token that is none",
        ),
        pytest.param(["enterprise", "add", "9", "--token", "t"], ["--bot-token", "no enterprise 9"], id="half of a new one"),
        pytest.param(
            ["enterprise", "add", "9", "--token", "t", "--bot-token", "1:a", "--address", "10.0.0.1/8"],
            ["--address", "10.0.0.1/8", "10.0.0.0/8"],
            id="an address that is none",
        ),
        pytest.param(
            ["enterprise", "add", "9", "--address", "10.0.0.1", "--any-address"], ["--any-address"], id="here and anywhere"
        ),
        pytest.param(
            ["enterprise", "add", "9", "--token", "t", "--bot-token", "1:a", "--require-signature"],
            ["enterprise secret 9"],
            id="signatures without a secret",
        ),
        pytest.param(["enterprise", "secret", "9"], ["no enterprise 9"], id="a secret of an unknown one"),
        pytest.param(["enterprise", "secret", "9", "--remove", "--retire"], ["--remove"], id="all and one of them"),
        pytest.param(["serve", "--roles", "ingest,cook"], ["cook", "ingest, plan, send, sink"], id="an unknown role"),
        pytest.param(["replay", __file__, "--url", "http://127.0.0.1:9"], [], id="a file that is no recording"),
    ],
)
def test_what_a_command_refuses_is_one_line(program: Program, arguments: list[str], parts: list[str]) -> None:
    done = program.cli(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, *parts)


@pytest.mark.parametrize("command", ["add", "remove", "mute", "resume"])
def test_a_chat_id_that_telegram_cannot_have_is_refused(program: Program, office: Office, command: str) -> None:
    done = program.cli("subscriber", command, office.number, "99999999999999999999")
    assert done.returncode == 2
    assert "Invalid value for 'CHAT_ID'" in done.stderr


@pytest.mark.parametrize("option", ["simulator --port", "demo --chats-port 0 --port", "demo --port 0 --chats-port"])
def test_a_port_that_is_taken_is_said_in_one_line(idle: Program, telegram: Telegram, option: str) -> None:
    port = telegram.url.rpartition(":")[2]
    done = idle.cli(*option.split(), port)
    assert done.returncode == 1
    assert_one_line(done.stderr, port, "address already in use" if "demo" not in option else "Address", "another --")


def test_a_token_belongs_to_one_enterprise(program: Program, office: Office) -> None:
    done = program.cli("enterprise", "add", "9999", "--token", office.token, "--bot-token", "1:abc")
    assert done.returncode == 1
    assert_one_line(done.stderr, office.number)
    assert office.token not in done.stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("api = 1\n[[plugin]\n", ["not TOML"], id="not TOML"),
        pytest.param(
            'api = 1\nplugins = []\n[[plugin]]\nname = "start"\n', ["unknown key", "plugins"], id="an unknown key"
        ),
        pytest.param(
            'api = 1\n[[plugin]]\nname = "start"\nsettings = { hold = 1 }\n',
            ["start", "unknown key", "hold"],
            id="an unknown setting",
        ),
        pytest.param(
            'api = 1\n[[plugin]]\nname = "start"\nsettings = { hold_s = "1" }\n',
            ["start", "hold_s"],
            id="a wrong setting",
        ),
        pytest.param('api = 2\n[[plugin]]\nname = "start"\n', ["api = 2"], id="another api"),
        pytest.param(
            'api = 1\n[[plugin]]\nname = "start"\n[[plugin]]\nname = "start"\n',
            ["'start'", "twice"],
            id="a plugin twice",
        ),
        pytest.param(
            'api = 1\n[defaults]\nzone = "Mars/Base"\n[[plugin]]\nname = "start"\n', ["Mars/Base"], id="an unknown zone"
        ),
        pytest.param(None, ["cannot-be-read.toml"], id="a file that is not there"),
    ],
)
def test_a_wrong_plugins_toml_is_refused_in_one_line(
    idle: Program, tmp_path: Path, text: str | None, parts: list[str]
) -> None:
    path = tmp_path / "cannot-be-read.toml"
    if text is not None:
        path.write_text(text)
    done = idle.cli("serve", CALLGRAM_PLUGINS=str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, *parts)


@pytest.mark.parametrize("command", [["enterprise", "list"], ["plugins"]], ids=lambda command: command[0])
def test_every_command_refuses_a_plugins_toml_that_serve_refuses(idle: Program, command: list[str]) -> None:
    done = idle.cli(*command, CALLGRAM_PLUGINS="cannot-be-read.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, "cannot-be-read.toml")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        pytest.param("CALLGRAM_PORT", "eighty", "CALLGRAM_PORT", id="a port that is no number"),
        pytest.param("CALLGRAM_PORT", "65536", "CALLGRAM_PORT", id="a port that is none"),
        pytest.param("CALLGRAM_SUPERUSER", "@boss", "CALLGRAM_SUPERUSER", id="a superuser by name"),
        pytest.param(
            "CALLGRAM_DATABASE_URL", "mysql://root:hunter2@db/x", "CALLGRAM_DATABASE_URL", id="another database"
        ),
        pytest.param("CALLGRAM_TELEGRAM_API_URL", "telegram.org", "CALLGRAM_TELEGRAM_API_URL", id="a URL without http"),
        pytest.param("CALLGRAM_PROXY", "ftp://u:hunter2@proxy", "proxy", id="a proxy that is none"),
        pytest.param("CALLGRAM_HOST", "256.0.0.1", "CALLGRAM_HOST", id="a host that is none"),
    ],
)
def test_a_wrong_environment_is_refused_in_one_line(
    program: Program, new_dsn: Callable[[], str], name: str, value: str, told: str
) -> None:
    done = program.cli("serve", **({"CALLGRAM_DATABASE_URL": new_dsn()} | {name: value}))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert_one_line(done.stderr.splitlines()[-1] + "\n", told)
    assert "hunter2" not in done.stderr
