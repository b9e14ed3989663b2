"""The loader: brings in the plugins that plugins.toml names, by entry point, one by one, and checks each.

A plugin is a module of hook functions or a class whose instances have them. It may carry ``Settings`` (a frozen msgspec
struct that refuses unknown keys) and ``CALLGRAM_API``. A required plugin that fails stops the start with the reason;
another degrades loudly. Nothing is imported that plugins.toml does not name. Code is never hot-reloaded.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec
import pluggy

from callgram import hooks
from callgram.context import Context, Locale
from callgram.dispatch import Dispatcher, Implementation, Outcome, run_now
from callgram.errors import ConfigError, PluginError
from callgram.settings import CallSettings, PluginsFile, Settings
from callgram.settings import load as load_settings

GROUP = "callgram.plugins"
LIFECYCLE = frozenset({"startup", "shutdown", "http_routes"})
LIFECYCLE_S = 30.0  # once a process, and a database may take its time to stop; nobody waits for anything else meanwhile


class Status(StrEnum):
    OK = "ok"
    FAILED = "failed"


class Loaded(msgspec.Struct, kw_only=True):
    """What became of one plugin. ``plugin`` is the object whose hooks are called, ``None`` when it failed."""

    name: str
    status: Status
    required: bool = False
    error: str = ""
    distribution: str = ""
    version: str = ""
    hooks: tuple[str, ...] = ()
    plugin: Any = None
    settings_type: Any = None
    settings: Any = None


class Plugins:
    """The loaded plugins of a process, and the dispatcher that calls them."""

    def __init__(self, file: PluginsFile, loaded: list[Loaded], publish: Callable[[Outcome], None]) -> None:
        self.file = file
        self.loaded = {one.name: one for one in loaded}
        self.dispatcher = Dispatcher(_implementations(file, loaded), publish)
        self._settings: dict[tuple[str, str | None], Any] = {}
        self._enabled: dict[str | None, tuple[str, ...]] = {}
        self._readings: dict[str, tuple[CallSettings, Locale]] = {}
        self._check_enterprises()

    @property
    def ok(self) -> bool:
        return all(one.status is Status.OK for one in self.loaded.values())

    def enabled(self, number: str | None) -> tuple[str, ...]:
        """The plugins that are asked for an enterprise, in call order."""
        known = self._enabled.get(number)
        if known is None:
            known = self._enabled[number] = self.file.enabled(number)
        return known

    def reading(self, number: str) -> tuple[CallSettings, Locale]:
        """How calls of an enterprise are read and shown."""
        known = self._readings.get(number)
        if known is None:
            settings = self.file.call_settings(number)
            known = self._readings[number] = (settings, settings.locale())
        return known

    def take_out(self, name: str, error: str) -> None:
        """A plugin failed while the process started: it is not asked any more."""
        self.loaded[name].status, self.loaded[name].error = Status.FAILED, error
        self.dispatcher.forget(name)

    def settings(self, plugin: str, number: str | None) -> Any:
        """The plugin's settings struct as it holds for an enterprise (``None``: for none in particular)."""
        key = (plugin, number)
        if key not in self._settings:
            self._settings[key] = self._merged(plugin, number)
        return self._settings[key]

    def _merged(self, plugin: str, number: str | None) -> Any:
        one = self.loaded[plugin]
        entry = self.file.enterprise.get(number) if number is not None else None
        own = entry.settings.get(plugin) if entry else None
        if own is None or one.settings_type is None:
            return one.settings
        return _convert(
            plugin, {**_given(self.file, plugin), **own}, one.settings_type, f"enterprise.{number}.settings"
        )

    def _check_enterprises(self) -> None:
        for number, entry in self.file.enterprise.items():
            for plugin, own in entry.settings.items():
                one = self.loaded[plugin]
                if one.status is Status.OK and own and one.settings_type is None:
                    raise ConfigError(
                        f"plugin {plugin!r} has no settings; remove enterprise.{number}.settings.{plugin}"
                    )
                self._merged(plugin, number)


def load(settings: Settings, publish: Callable[[Outcome], None], *, tolerant: bool = False) -> Plugins:
    """Load every plugin of plugins.toml.

    Raises:
        PluginError: a required plugin cannot be loaded (unless ``tolerant``); the reason is in the text.
        ConfigError: settings of a plugin are wrong; plugin and key are named.
    """
    file = settings.plugins
    known = {point.name: point for point in entry_points(group=GROUP)}
    required = {entry.name for entry in file.plugin if entry.required}
    try:
        loaded = [_load(name, known, file, required=name in required) for name in file.names()]
    except ConfigError as error:
        raise ConfigError(f"{settings.plugins_path}: {error}") from None
    broken = next((one for one in loaded if one.required and one.status is Status.FAILED), None)
    if broken and not tolerant:
        raise PluginError(broken.name, f"required, but {broken.error}")
    try:
        return Plugins(file, loaded, publish)
    except ConfigError as error:
        raise ConfigError(f"{settings.plugins_path}: {error}") from None


def _load(name: str, known: dict[str, EntryPoint], file: PluginsFile, *, required: bool) -> Loaded:
    one = Loaded(name=name, status=Status.FAILED, required=required)
    point = known.get(name)
    if point is None:
        one.error = f"not installed: no distribution has the entry point {name!r} in {GROUP}; install it or take it out"
        return one
    if point.dist is not None:
        one.distribution, one.version = point.dist.name, point.dist.version
    try:
        found = point.load()
        _check_api(found)
        one.plugin = found() if inspect.isclass(found) else found
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module may do anything while it is imported
        one.error = f"cannot be loaded: {type(error).__name__}: {error}"
        return one
    return _checked(one, found, _given(file, name))


def adopt(name: str, found: Any, settings: dict[str, Any]) -> Loaded:
    """Check a plugin that is at hand already, as if it had been loaded by entry point."""
    one = Loaded(name=name, status=Status.FAILED)
    try:
        _check_api(found)
    except PluginError as error:
        one.error = str(error)
        return one
    one.plugin = found() if inspect.isclass(found) else found
    return _checked(one, found, settings)


def _checked(one: Loaded, found: Any, settings: dict[str, Any]) -> Loaded:
    one.settings_type = getattr(found, "Settings", None)
    if one.settings_type is not None and not _is_struct(one.settings_type):
        one.error, one.plugin = (
            "its Settings is no msgspec.Struct; make it a frozen one that forbids unknown fields",
            None,
        )
        return one
    one.settings = _convert(one.name, settings, one.settings_type, "settings")
    problem = _register_problem(one.name, one.plugin)
    if problem:
        one.error, one.plugin = problem, None
        return one
    one.hooks = tuple(hook for hook in _HOOK_NAMES if _marker(one.plugin, hook) is not None)
    one.status = Status.OK
    return one


def _is_struct(settings_type: Any) -> bool:
    return inspect.isclass(settings_type) and issubclass(settings_type, msgspec.Struct)


def _given(file: PluginsFile, name: str) -> dict[str, Any]:
    return next((entry.settings for entry in file.plugin if entry.name == name), {})


def _check_api(found: Any) -> None:
    wanted = getattr(found, "CALLGRAM_API", hooks.API_VERSION)
    if wanted != hooks.API_VERSION:
        raise PluginError(
            getattr(found, "__name__", "?"), f"written for plugin API {wanted}, this callgram has {hooks.API_VERSION}"
        )


def _convert(name: str, given: dict[str, Any], settings_type: Any, where: str) -> Any:
    if settings_type is None:
        if given:
            raise ConfigError(f"plugin {name!r}: it takes no settings; remove {where} = {{ {next(iter(given))} = … }}")
        return None
    try:
        return msgspec.convert(given, settings_type)
    except msgspec.ValidationError as error:
        text, _, place = str(error).replace("Object contains unknown field", "unknown key").partition(" - at ")
        at = where + place.strip("`").removeprefix("$")
        keys = ", ".join(settings_type.__struct_fields__)
        raise ConfigError(f"plugin {name!r}: {text} in {at} (keys: {keys})") from None


_SPECS: dict[str, Any] = {
    name: function for name, function in vars(hooks).items() if getattr(function, "callgram_spec", None) is not None
}
_HOOK_NAMES = tuple(_SPECS)


def _marker(plugin: Any, hook: str) -> dict[str, Any] | None:
    marker = getattr(getattr(plugin, hook, None), "callgram_impl", None)
    return marker if isinstance(marker, dict) else None


def _register_problem(name: str, plugin: Any) -> str:
    """What is wrong with the plugin's hooks, ``""`` when nothing is. pluggy checks names and arguments against the specs."""
    manager = pluggy.PluginManager("callgram")
    manager.add_hookspecs(hooks)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except (pluggy.PluginValidationError, TypeError, ValueError) as error:
        return f"its hooks do not fit: {error}"
    for hook in _HOOK_NAMES:
        marker = _marker(plugin, hook)
        if marker is None:
            continue
        function = getattr(plugin, hook)
        if not inspect.iscoroutinefunction(function):
            return f"hook {hook} must be `async def`"
        if marker.get("wrapper") or marker.get("hookwrapper") or marker.get("tryfirst"):
            return f"hook {hook}: wrappers and tryfirst are not taken; the order is that of plugins.toml"
        if any(p.default is not p.empty for p in inspect.signature(function).parameters.values()):
            return f"hook {hook}: default arguments are not taken; name only what the hook is called with"
    return ""


def _implementations(file: PluginsFile, loaded: list[Loaded]) -> list[Implementation]:
    deadlines = {entry.name: entry.deadline_s for entry in file.plugin if entry.deadline_s is not None}
    found = []
    for one in loaded:
        for hook in one.hooks:
            function = getattr(one.plugin, hook)
            marker = _marker(one.plugin, hook) or {}
            found.append(
                Implementation(
                    plugin=one.name,
                    hook=sys.intern(hook),
                    function=function,
                    arguments=tuple(inspect.signature(function).parameters),
                    last=bool(marker.get("trylast")),
                    deadline_s=LIFECYCLE_S if hook in LIFECYCLE else deadlines.get(one.name, file.hook_deadline_s),
                )
            )
    return found


def commands_of_plugins() -> list[Any]:
    """The command line's commands from plugins. What is wrong with plugins.toml is said by the commands that use it."""
    try:
        settings = load_settings()
        plugins = load(settings, lambda outcome: None, tolerant=True)
    except ConfigError:
        return []
    commands: list[Any] = []
    for one in plugins.loaded.values():
        if one.status is Status.OK and "cli_commands" in one.hooks:
            commands += _commands(one, settings)
    return commands


def _commands(one: Loaded, settings: Settings) -> list[Any]:
    ctx = Context(now=datetime.now(UTC), settings=one.settings, process=settings)
    hook = one.plugin.cli_commands
    try:
        return run_now(hook(**({"ctx": ctx} if inspect.signature(hook).parameters else {}))) or []
    except (Exception, SystemExit):  # noqa: BLE001 - a stranger's command must not take the others away
        return []
