"""What a wrong configuration is answered with, what an enterprise may set for itself, and that secrets stay secret."""

import copy
import pickle
import pprint
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callgram import loader
from callgram.context import Enterprise, Secret
from callgram.errors import CallgramError, ConfigError
from callgram.hooks import API_VERSION
from callgram.logs import scrub
from callgram.settings import ENVIRONMENT, CallSettings, Settings, load, load_plugins, parse_plugins, shipped_plugins
from callgram.telegram.settings import SessionSettings

SOURCE = "/etc/callgram/plugins.toml"
BOT_TOKEN = "7000000001:AAFq-secret_secret_secret_secret_s"
PASSWORD = "pa55word"

WHOLE = """
api = 1
hook_deadline_s = 1.5
retention_days = 7

[defaults]
language = "en"
zone = "Europe/Warsaw"
mode = "edit"

[limits]
bot_per_s = 10

[[plugin]]
name = "start"
settings = { hold_s = 2.0 }

[[plugin]]
name = "hangup"
deadline_s = 0.5

[enterprise.0367]
off = ["start"]
plugins = ["acme_format"]
mode = "replace"
extension = '1\\d\\d'
settings = { hangup = { show_line = false } }
"""


def toml(text: str) -> str:
    return "api = 1\n" + textwrap.dedent(text)


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_plugins(text, SOURCE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("api = ", ["not TOML"], id="no TOML"),
        pytest.param('[[plugin]]\nname = "start"', ["`api`"], id="no api"),
        pytest.param("api = 2\nplugin = []", ["api = 2", "plugin API 1", "CHANGELOG.md"], id="another api"),
        pytest.param("api = '1'\nplugin = []", ["`int`", "api"], id="api as text"),
        pytest.param("api = 1", ["`plugin`"], id="no plugin"),
        pytest.param(toml("plugins = []\nplugin = []"), ["unknown key `plugins`"], id="unknown key at the top"),
        pytest.param(toml('[[plugin]]\nname = "a"\nsetings = {}'), ["`setings`", "plugin[0]"], id="key of a plugin"),
        pytest.param(toml('[[plugin]]\nname = "a"\n[[plugin]]\n'), ["`name`", "plugin[1]"], id="plugin without a name"),
        pytest.param(toml('[[plugin]]\nname = "a"\nrequired = 1'), ["`bool`", "plugin[0].required"], id="wrong type"),
        pytest.param(toml('[[plugin]]\nname = "a"\n[[plugin]]\nname = "a"'), ["'a'", "twice", "keep one"], id="twice"),
        pytest.param(toml("plugin = []\n[defaults]\ncolour = 1"), ["`colour`", "defaults"], id="key of defaults"),
        pytest.param(toml('plugin = []\n[defaults]\nlanguage = "de"'), ["'de'", "defaults.language"], id="language"),
        pytest.param(toml('plugin = []\n[defaults]\nmode = "both"'), ["'both'", "defaults.mode"], id="mode"),
        pytest.param(
            toml('plugin = []\n[defaults]\nzone = "Minsk"'), ["defaults.zone", "'Minsk'", "Europe/Minsk"], id="zone"
        ),
        pytest.param(toml('plugin = []\n[defaults]\nzone = ""'), ["defaults.zone"], id="empty zone"),
        pytest.param(toml('plugin = []\n[defaults]\nzone = "../etc"'), ["defaults.zone"], id="zone that is a path"),
        pytest.param(
            toml('plugin = []\n[defaults]\nextension = "["'), ["defaults.extension", "regular"], id="extension"
        ),
        pytest.param(toml("plugin = []\n[limits]\nbot_per_s = 0"), ["limits.bot_per_s", ">= 1"], id="no limit"),
        pytest.param(toml("plugin = []\n[limits]\nper_s = 1"), ["`per_s`", "limits"], id="unknown limit"),
        pytest.param(toml("plugin = []\n[enterprise.0367]\non = []"), ["`on`", "enterprise"], id="key of one"),
        pytest.param(
            toml('plugin = []\n[enterprise.0367]\noff = ["strat"]'), ["enterprise.0367", "'strat'"], id="off of nothing"
        ),
        pytest.param(
            toml("plugin = []\n[enterprise.0367]\nsettings = { hangup = {} }"),
            ["enterprise.0367", "'hangup'", "[[plugin]]"],
            id="settings of a plugin that is not listed",
        ),
        pytest.param(
            toml('plugin = []\n[enterprise.0367]\nzone = "X/Y"'), ["enterprise.0367.zone", "'X/Y'"], id="zone of one"
        ),
        pytest.param(
            toml("plugin = []\n[enterprise.0367]\nextension = '('"), ["enterprise.0367.extension"], id="pattern of one"
        ),
    ],
)
def test_a_wrong_file_is_answered_with_its_name_the_place_and_the_value(text: str, told: list[str]) -> None:
    error = error_of(text)
    assert error.startswith(SOURCE)
    for part in told:
        assert part in error


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param(toml('[[plugin]]\nname = "a"\ndeadline_s = 0'), "deadline_s", id="deadline of nothing"),
        pytest.param(toml("plugin = []\nhook_deadline_s = -1.0"), "hook_deadline_s", id="negative deadline"),
        pytest.param(toml("plugin = []\nretention_days = 0"), "retention_days", id="retention of nothing"),
        pytest.param(toml("plugin = []\nretention_days = -14"), "retention_days", id="negative retention"),
        pytest.param(toml("plugin = []\n[defaults]\nghost_talk_s = 0"), "ghost_talk_s", id="ghost at once"),
        pytest.param(toml("plugin = []\n[defaults]\nregion = 'Belarus'"), "region", id="no region"),
        pytest.param(toml('plugin = []\n[enterprise.0367]\nregion = "by"'), "region", id="no region of one"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(text: str, place: str) -> None:
    assert place in error_of(text)


def settings_of(text: str) -> Settings:
    return Settings(plugins=parse_plugins(text, SOURCE), plugins_path=SOURCE)


def load_error(text: str) -> str:
    with pytest.raises(CallgramError) as caught:
        loader.load(settings_of(text), lambda outcome: None)
    return str(caught.value)


HANGUP = '[[plugin]]\nname = "hangup"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            toml(HANGUP + "settings = { show_lines = true }"), ["'hangup'", "`show_lines`", "show_line"], id="unknown"
        ),
        pytest.param(
            toml(HANGUP + "settings = { show_line = 'yes' }"), ["'hangup'", "`bool`", "show_line"], id="wrong type"
        ),
        pytest.param(
            toml('[[plugin]]\nname = "dial"\nsettings = { loud = true }'), ["'dial'", "no settings", "loud"], id="none"
        ),
        pytest.param(
            toml(HANGUP + "[enterprise.0367]\nsettings = { hangup = { show = true } }"),
            ["'hangup'", "`show`", "enterprise.0367"],
            id="unknown key of an enterprise",
        ),
        pytest.param(
            toml('[[plugin]]\nname = "dial"\n[enterprise.0367]\nsettings = { dial = { loud = true } }'),
            ["'dial'", "enterprise.0367", "remove"],
            id="an enterprise's settings of a plugin that takes none",
        ),
        pytest.param(
            toml('[[plugin]]\nname = "nowhere"\nrequired = true'), ["'nowhere'", "install"], id="required"
        ),
        pytest.param(
            toml('[[plugin]]\nname = "tracer"\nsettings = { zone = "Minsk" }'), ["'tracer'", "zone"], id="checked"
        ),
    ],
)
def test_wrong_settings_of_a_plugin_are_answered_with_plugin_key_and_remedy(text: str, told: list[str]) -> None:
    error = load_error(text)
    for part in told:
        assert part in error


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(toml(HANGUP + "settings = { show_lines = true }"), id="plugin"),
        pytest.param(toml(HANGUP + "[enterprise.0367]\nsettings = { hangup = { show = true } }"), id="enterprise"),
    ],
)
def test_wrong_settings_of_a_plugin_name_the_file(text: str) -> None:
    assert SOURCE in load_error(text)


def test_a_plugin_that_is_not_required_and_not_installed_is_no_error() -> None:
    plugins = loader.load(settings_of(toml(HANGUP + '[[plugin]]\nname = "nowhere"')), lambda outcome: None)
    assert not plugins.ok
    assert plugins.loaded["nowhere"].status is loader.Status.FAILED
    assert "not installed" in plugins.loaded["nowhere"].error
    assert plugins.loaded["hangup"].status is loader.Status.OK


# One enterprise may differ


def test_an_enterprise_has_its_own_plugins_first_and_does_without_others() -> None:
    file = parse_plugins(WHOLE, SOURCE)
    assert file.names() == ("acme_format", "start", "hangup")
    assert file.enabled("0367") == ("acme_format", "hangup")
    assert file.enabled("0999") == ("start", "hangup")
    assert file.enabled(None) == ("start", "hangup")


def test_call_settings_of_an_enterprise_lie_over_the_defaults() -> None:
    file = parse_plugins(WHOLE, SOURCE)
    own, others = file.call_settings("0367"), file.call_settings("0999")
    assert others == CallSettings(language="en", zone="Europe/Warsaw", mode="edit")
    assert own == msgspec.structs.replace(others, mode="replace", extension=r"1\d\d")
    assert own.locale().plan.is_extension("150")
    assert not own.locale().plan.is_extension("250")
    assert own.locale().language == "en"


def test_plugin_settings_of_an_enterprise_lie_over_the_plugins_own() -> None:
    text = toml(
        """
        [[plugin]]
        name = "tracer"
        settings = { text_limit = 100, retention_days = 3 }
        [enterprise.0367]
        settings = { tracer = { text_limit = 50 } }
        """
    )
    plugins = loader.load(settings_of(text), lambda outcome: None)
    own, others = plugins.settings("tracer", "0367"), plugins.settings("tracer", "0999")
    assert (own.text_limit, own.retention_days) == (50, 3)
    assert (others.text_limit, others.retention_days) == (100, 3)
    assert plugins.settings("tracer", None) == others


def test_a_listed_plugin_of_an_enterprise_moves_to_the_front_for_it_alone() -> None:
    text = toml('[[plugin]]\nname = "a"\n[[plugin]]\nname = "b"\n[enterprise.1]\nplugins = ["b"]')
    file = parse_plugins(text, SOURCE)
    assert file.enabled("1") == ("b", "a")
    assert file.enabled("2") == ("a", "b")
    assert file.names() == ("a", "b")


@pytest.mark.parametrize(
    ("entry", "deadline_s"),
    [
        pytest.param("", 7.5, id="of all hooks"),
        pytest.param("deadline_s = 0.5", 0.5, id="its own"),
    ],
)
def test_hook_deadline_holds_for_plugins_without_their_own(entry: str, deadline_s: float) -> None:
    text = f'api = 1\nhook_deadline_s = 7.5\n[[plugin]]\nname = "dial"\n{entry}'
    plugins = loader.load(settings_of(text), lambda outcome: None)
    known = plugins.dispatcher._of["plan_message"]
    assert [one.deadline_s for one in known] == [deadline_s]


# The environment


@pytest.fixture
def plugins_file(tmp_path: Path) -> Path:
    path = tmp_path / "plugins.toml"
    path.write_text("api = 1\nplugin = []\n", "utf-8")
    return path


def load_with(path: Path, **environ: str) -> Settings:
    return load({"CALLGRAM_PLUGINS": str(path)} | {f"CALLGRAM_{name}": value for name, value in environ.items()})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        pytest.param("PORT", "eighty", ["'eighty'", "65535"], id="no number"),
        pytest.param("PORT", "65536", ["'65536'", "65535"], id="no such port"),
        pytest.param("PORT", "-1", ["'-1'"], id="negative port"),
        pytest.param("PORT", "8080.0", ["'8080.0'"], id="float"),
        pytest.param("SUPERUSER", "@anna", ["'@anna'", "whole number"], id="a name for a chat id"),
        pytest.param("DATABASE_URL", "mysql://x", ["postgresql://", "embedded"], id="another database"),
        pytest.param("TRUSTED_PROXIES", "127.0.0.1,nginx", ["'nginx'", "10.0.0.0/24"], id="a proxy by name"),
        pytest.param("TRUSTED_PROXIES", "*", ["'*'", "10.0.0.0/24"], id="all the world"),
        pytest.param("TRUSTED_PROXIES", "10.0.0.1/8", ["10.0.0.1/8", "10.0.0.0/24"], id="a network with a host in it"),
        pytest.param("TELEGRAM_API_URL", "api.telegram.org", ["http://"], id="no scheme"),
    ],
)
def test_a_wrong_variable_is_named_with_the_remedy(plugins_file: Path, name: str, value: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with(plugins_file, **{name: value})
    assert f"CALLGRAM_{name}" in str(caught.value)
    for part in told:
        assert part in str(caught.value)


def test_variables_are_read_and_empty_ones_are_as_good_as_unset(plugins_file: Path, tmp_path: Path) -> None:
    found = load_with(
        plugins_file,
        DATABASE_URL="postgresql://u:p@db/callgram",
        TELEGRAM_API_URL="http://127.0.0.1:8081/",
        PROXY="socks5://127.0.0.1:1080",
        SUPERUSER="-100157",
        HOST="0.0.0.0",
        PORT=" 9000 ",
        DATA_DIR=str(tmp_path),
        NODE="a",
        TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/24,::1",
    )
    assert found.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/24", "::1/128")
    assert (found.host, found.port, found.node, found.superuser) == ("0.0.0.0", 9000, "a", -100157)
    assert found.telegram_api_url == "http://127.0.0.1:8081"
    assert found.database_url == Secret("postgresql://u:p@db/callgram")
    assert found.data_dir == tmp_path
    assert found.plugins_path == str(plugins_file)
    empty = load_with(plugins_file, **dict.fromkeys(["DATABASE_URL", "PORT", "SUPERUSER", "PROXY", "NODE"], ""))
    assert (empty.database_url, empty.port, empty.superuser, empty.proxy) == (None, 8080, None, None)
    assert empty.node.endswith(":8080")


def test_an_option_of_the_command_wins_over_the_variable(plugins_file: Path) -> None:
    found = load({"CALLGRAM_PORT": "9000"}, plugins=plugins_file, port=9001, host=None, roles=("plan",))
    assert (found.port, found.host, found.roles) == (9001, "127.0.0.1", ("plan",))


def test_every_variable_is_read() -> None:
    for name in ENVIRONMENT:
        field = name.removeprefix("CALLGRAM_").lower()
        assert field in Settings.__struct_fields__, name


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.mkdir(), id="a directory"),
        pytest.param(lambda path: path.write_bytes(b"api = 1 # \xff"), id="no UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "mine.toml"
    make(path)
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_plugins(path)


def test_without_a_file_the_shipped_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, path = load_plugins(None)
    assert path == "shipped"
    assert file == parse_plugins(shipped_plugins(), "shipped")
    assert file.api == API_VERSION
    (tmp_path / "plugins.toml").write_text("api = 1\nplugin = []\n", "utf-8")
    assert load_plugins(None) == (parse_plugins("api = 1\nplugin = []", ""), "plugins.toml")


# Secrets

SECRET = Secret(f"postgresql://callgram:{PASSWORD}@db/callgram")
ENTERPRISE = Enterprise(number="0367", token=Secret("375290000001"), bot_token=Secret(BOT_TOKEN))
FULL = Settings(
    plugins=parse_plugins("api = 1\nplugin = []", SOURCE),
    plugins_path=SOURCE,
    database_url=SECRET,
    proxy=Secret(f"socks5://callgram:{PASSWORD}@proxy:1080"),
)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(SECRET, id="Secret"),
        pytest.param(ENTERPRISE, id="Enterprise"),
        pytest.param(FULL, id="Settings"),
        pytest.param([{"a": SECRET}], id="nested"),
        pytest.param(SessionSettings(proxy=f"socks5://callgram:{PASSWORD}@proxy:1080"), id="SessionSettings"),
        pytest.param(ConfigError(f"cannot connect: {SECRET}"), id="error"),
        pytest.param(copy.deepcopy(ENTERPRISE), id="copy"),
    ],
)
def test_no_way_to_show_a_value_shows_its_secrets(value: object) -> None:
    for shown in (repr(value), str(value), f"{value}", f"{value!s:>40}", pprint.pformat(value), "{}".format(value)):  # noqa: UP032
        for secret in (PASSWORD, BOT_TOKEN, BOT_TOKEN.split(":")[1], "375290000001"):
            assert secret not in shown


def test_a_secret_is_not_encoded_by_accident() -> None:
    with pytest.raises(TypeError) as caught:
        msgspec.json.encode(FULL)
    assert PASSWORD not in str(caught.value)


def test_a_secret_is_itself_again_where_it_is_used() -> None:
    assert SECRET.reveal().startswith("postgresql://")
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert pickle.loads(pickle.dumps(ENTERPRISE)) == ENTERPRISE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("DATABASE_URL", f"postgres//callgram:{PASSWORD}@db/callgram", id="DSN with a typing error"),
        pytest.param("TELEGRAM_API_URL", f"callgram:{PASSWORD}@api", id="API address with a password"),
    ],
)
def test_an_error_about_a_variable_does_not_repeat_what_may_be_secret(
    plugins_file: Path, name: str, value: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with(plugins_file, **{name: value})
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"POST https://api.telegram.org/bot{BOT_TOKEN}/sendMessage failed", id="bot token in a URL"),
        pytest.param(f"token {BOT_TOKEN}", id="bot token alone"),
        pytest.param(f"connect to postgresql://callgram:{PASSWORD}@db/callgram", id="password of a DSN"),
        pytest.param(f"secret whsec_{PASSWORD}/+AA==", id="secret of a signature"),
        pytest.param(f"proxy socks5://u:{PASSWORD}@proxy:1080", id="password of a proxy"),
        pytest.param(f"postgresql://u:a@b{PASSWORD}@db/callgram", id="password with an @"),
        pytest.param(f"postgresql://u:a/{PASSWORD}@db/callgram", id="password with a slash"),
    ],
)
def test_the_log_is_scrubbed(text: str) -> None:
    scrubbed = scrub(text)
    assert BOT_TOKEN.split(":")[1] not in scrubbed
    assert PASSWORD not in scrubbed
