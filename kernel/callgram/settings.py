"""Settings: plugins.toml and the environment, checked as a whole into one immutable snapshot.

Reads the file named by ``--plugins`` or CALLGRAM_PLUGINS, else ``plugins.toml`` in the working directory, else the shipped
one. Refuses unknown keys and wrong values with an error that names the file, the place and the remedy.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from importlib import resources
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from callgram.context import Locale, Mode, Secret
from callgram.errors import ConfigError
from callgram.hooks import API_VERSION
from callgram.numbers import NumberPlan, Rewrite
from callgram.shards import WHOLE, Shard
from callgram.telegram.limits import LimitSettings

Seconds = Annotated[float, msgspec.Meta(gt=0)]
ROLES = ("ingest", "plan", "send", "sink")
MOST_WORKERS = 16


class PluginEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ``[[plugin]]``: ``required`` stops the start when it cannot be loaded; ``settings`` are the plugin's own;
    ``deadline_s`` is how long one of its hooks may take, the file's ``hook_deadline_s`` when absent."""

    name: str
    required: bool = False
    deadline_s: Seconds | None = None
    settings: dict[str, Any] = {}


class CallSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How calls are read and shown. ``[defaults]`` sets it for all, ``[enterprise.NUMBER]`` for one.

    ``language``: ru or en. ``zone``: IANA name. ``region``: ISO 3166 country of numbers without ``+``. ``extension``:
    regular expression of an inside number. ``mode``: replace (each stage is a new message) or edit (one that changes).
    ``rewrite``: rules for numbers that a trunk delivers in a form of its own. ``late_after_s``: a hangup that comes so much
    after its EndTime is marked. ``ghost_ringing_s``, ``ghost_talk_s``: silence after which a call without an end is
    closed. ``ambiguous``: what to do with a final message that may or may not have arrived: resend it, or probe for it
    first.
    """

    language: Literal["ru", "en"] = "ru"
    zone: str = "Europe/Minsk"
    region: str = "BY"
    extension: str = r"\d{3,4}"
    rewrite: tuple[Rewrite, ...] = ()
    mode: Mode = "replace"
    late_after_s: float = 120.0
    ghost_ringing_s: Seconds = 300.0
    ghost_talk_s: Seconds = 14_400.0
    ambiguous: Literal["resend", "probe"] = "resend"

    def locale(self) -> Locale:
        plan = NumberPlan(extension=self.extension, region=self.region, rewrite=self.rewrite, zone=self.zone)
        return Locale(language=self.language, zone=self.zone, plan=plan, late_after_s=self.late_after_s)


class EnterpriseEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ``[enterprise.NUMBER]``: plugins it does without, plugins of its own (asked first), its settings.

    ``settings`` is ``{plugin: {setting: value}}`` over the plugin's own; the other fields are those of CallSettings.
    """

    off: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = {}
    language: Literal["ru", "en"] | msgspec.UnsetType = msgspec.UNSET
    zone: str | msgspec.UnsetType = msgspec.UNSET
    region: str | msgspec.UnsetType = msgspec.UNSET
    extension: str | msgspec.UnsetType = msgspec.UNSET
    rewrite: tuple[Rewrite, ...] | msgspec.UnsetType = msgspec.UNSET
    mode: Mode | msgspec.UnsetType = msgspec.UNSET
    late_after_s: float | msgspec.UnsetType = msgspec.UNSET
    ghost_ringing_s: Seconds | msgspec.UnsetType = msgspec.UNSET
    ghost_talk_s: Seconds | msgspec.UnsetType = msgspec.UNSET
    ambiguous: Literal["resend", "probe"] | msgspec.UnsetType = msgspec.UNSET


class PluginsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """plugins.toml as written. ``limits`` is how fast to write to Telegram; ``hook_deadline_s`` how
    long a hook may take; ``retention_days`` how long calls and their trace stay in the store."""

    api: int
    plugin: tuple[PluginEntry, ...]
    defaults: CallSettings = CallSettings()
    enterprise: dict[str, EnterpriseEntry] = {}
    hook_deadline_s: Seconds = 2.0
    limits: LimitSettings = LimitSettings()
    retention_days: Annotated[int, msgspec.Meta(ge=1)] = 14

    def call_settings(self, number: str) -> CallSettings:
        """The call settings of an enterprise: its own over the defaults."""
        entry = self.enterprise.get(number)
        if entry is None:
            return self.defaults
        own = {name: getattr(entry, name) for name in CallSettings.__struct_fields__}
        return msgspec.structs.replace(
            self.defaults, **{name: value for name, value in own.items() if value is not msgspec.UNSET}
        )

    def names(self) -> tuple[str, ...]:
        """Every plugin that is to be loaded, in call order: those that only single enterprises use come first."""
        listed = [entry.name for entry in self.plugin]
        extra = [name for entry in self.enterprise.values() for name in entry.plugins if name not in listed]
        return tuple(dict.fromkeys([*extra, *listed]))

    def enabled(self, number: str | None) -> tuple[str, ...]:
        """The plugins that are asked for an enterprise (``None``: for none in particular), in call order."""
        listed = [entry.name for entry in self.plugin]
        entry = self.enterprise.get(number) if number is not None else None
        if entry is None:
            return tuple(listed)
        own = [*entry.plugins, *(name for name in listed if name not in entry.plugins)]
        return tuple(name for name in own if name not in entry.off)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a process is started with. Environment names are in ``ENVIRONMENT``; ``serving`` tells a serve
    from an administrative command. ``workers`` are all of a serve's; one of the others knows its number as ``worker``, and its
    ``shard``."""

    plugins: PluginsFile
    plugins_path: str
    database_url: Secret | None = None
    telegram_api_url: str = "https://api.telegram.org"
    proxy: Secret | None = None
    superuser: int | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("data")
    roles: tuple[str, ...] = ROLES
    node: str = ""
    trusted_proxies: tuple[str, ...] = ()
    serving: bool = False
    workers: int = 1
    worker: int = 0
    shard: Shard = WHOLE


ENVIRONMENT = {
    "CALLGRAM_DATABASE_URL": "PostgreSQL to use, as postgresql://…; an embedded one in the data directory when unset",
    "CALLGRAM_TELEGRAM_API_URL": "Bot API server, https://api.telegram.org when unset",
    "CALLGRAM_PROXY": "proxy for Telegram, as http://… or socks5://…",
    "CALLGRAM_SUPERUSER": "chat id that gets the messages of every enterprise",
    "CALLGRAM_HOST": "address to listen on, 127.0.0.1 when unset",
    "CALLGRAM_PORT": "port to listen on, 8080 when unset",
    "CALLGRAM_DATA_DIR": "directory of the embedded PostgreSQL, ./data when unset (as root /var/lib/callgram)",
    "CALLGRAM_PLUGINS": "plugins.toml to use",
    "CALLGRAM_NODE": "name of this node, host:port when unset; must differ between nodes of one database",
    "CALLGRAM_WORKERS": "processes that plan and send, 1 when unset; as many as cores serve more enterprises",
    "CALLGRAM_TRUSTED_PROXIES": "addresses of reverse proxies whose X-Forwarded-For is believed, as 127.0.0.1,10.0.0.0/24",
}


def load(environ: Mapping[str, str] = os.environ, **given: Any) -> Settings:
    """Settings from the environment and plugins.toml; ``given`` (options of a command) win where they are not ``None``.

    Raises:
        ConfigError: naming the variable or the place in the file.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    path = chosen.pop("plugins", None) or environ.get("CALLGRAM_PLUGINS") or None
    plugins, plugins_path = load_plugins(Path(path) if path else None)
    values: dict[str, Any] = {"data_dir": _default_data_dir()}
    for name, read in _READERS.items():
        text = environ.get(f"CALLGRAM_{name.upper()}", "").strip()
        if text:
            values[name] = read(text)
    values |= chosen
    values.setdefault("node", f"{socket.gethostname()}:{values.get('port', 8080)}")
    return Settings(plugins=plugins, plugins_path=plugins_path, **values)


def _default_data_dir() -> Path:
    """Below /root nothing is reachable for the unprivileged user that PostgreSQL must run as."""
    return Path("/var/lib/callgram") if os.geteuid() == 0 else Path("data").absolute()


def _number(name: str, low: int, high: int) -> Any:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
            raise ConfigError(f"{name} is {text!r}; set it to a whole number from {low} to {high}")
        return int(text)

    return read


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ConfigError("CALLGRAM_TELEGRAM_API_URL must start with http:// or https://")
    return text.rstrip("/")


def _dsn(text: str) -> Secret:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ConfigError(
            "CALLGRAM_DATABASE_URL must start with postgresql://; unset it to use the embedded PostgreSQL"
        )
    return Secret(text)


def _proxies(text: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(one.strip())) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise ConfigError(
            f"CALLGRAM_TRUSTED_PROXIES: {error}; give addresses or networks with commas, such as 127.0.0.1,10.0.0.0/24"
        ) from None


_READERS: dict[str, Any] = {
    "database_url": _dsn,
    "telegram_api_url": _url,
    "proxy": Secret,
    "superuser": _number("CALLGRAM_SUPERUSER", -(2**52), 2**52),
    "host": str,
    "port": _number("CALLGRAM_PORT", 0, 65_535),
    "data_dir": lambda text: Path(text).absolute(),
    "node": str,
    "workers": _number("CALLGRAM_WORKERS", 1, MOST_WORKERS),
    "trusted_proxies": _proxies,
}


def shipped_plugins() -> str:
    """The text of the plugins.toml that applies where there is none in sight."""
    return resources.files("callgram").joinpath("plugins.toml").read_text("utf-8")


def load_plugins(path: Path | None) -> tuple[PluginsFile, str]:
    """Read and check a plugins.toml; ``None`` looks in the working directory, then takes the shipped one."""
    if path is None and Path("plugins.toml").is_file():
        path = Path("plugins.toml")
    if path is None:
        return parse_plugins(shipped_plugins(), "the shipped plugins.toml"), "shipped"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a readable plugins.toml") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as UTF-8") from None
    return parse_plugins(text, str(path)), str(path)


def parse_plugins(text: str, source: str) -> PluginsFile:
    try:
        file = msgspec.toml.decode(text, type=PluginsFile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_readable(str(error))}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    if file.api != API_VERSION:
        raise ConfigError(
            f"{source}: api = {file.api}, but this callgram has plugin API {API_VERSION}; see CHANGELOG.md"
        )
    _check(file, source)
    return file


def _readable(message: str) -> str:
    """msgspec's ``Object contains unknown field `x` - at `$.plugin[0]``` in the words of the file."""
    text, _, where = message.partition(" - at ")
    text = text.replace("Object contains unknown field", "unknown key")
    place = where.strip("`").removeprefix("$").removeprefix(".") or "top level"
    return f"{text} in {place}"


def _check(file: PluginsFile, source: str) -> None:
    names = [entry.name for entry in file.plugin]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{source}: plugin {name!r} is listed twice; keep one [[plugin]] of it")
    for number, entry in file.enterprise.items():
        unknown = [name for name in (*entry.off, *entry.settings) if name not in (*names, *entry.plugins)]
        if unknown:
            raise ConfigError(f"{source}: enterprise.{number} names plugin {unknown[0]!r}, which no [[plugin]] lists")
    for place, chosen in [
        ("defaults", file.defaults),
        *((f"enterprise.{n}", file.call_settings(n)) for n in file.enterprise),
    ]:
        try:
            ZoneInfo(chosen.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(
                f"{source}: {place}.zone is {chosen.zone!r}; use an IANA name such as Europe/Minsk"
            ) from None
        if not re.fullmatch("[A-Z]{2}", chosen.region):
            raise ConfigError(f"{source}: {place}.region is {chosen.region!r}; use an ISO 3166 country such as BY")
        for key, pattern in [
            ("extension", chosen.extension),
            *(("rewrite.match", rule.match) for rule in chosen.rewrite),
        ]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"{source}: {place}.{key} is no regular expression: {error}") from None
