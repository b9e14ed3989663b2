"""Every error that callgram raises, split by what its reader does about it. No text here ever holds a token or a phone."""

from __future__ import annotations


class CallgramError(Exception):
    """Something went wrong in callgram."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])


class ConfigError(CallgramError):
    """The configuration is wrong: fix the file or the variable that the message names."""


class PluginError(CallgramError):
    """A plugin is at fault: fix it or take it out of plugins.toml."""

    def __init__(self, plugin: str, message: str, *, hook: str | None = None) -> None:
        self.plugin = plugin
        self.hook = hook
        where = f"plugin {plugin!r}" + (f", hook {hook}" if hook else "")
        super().__init__(f"{where}: {message}")


class StoreError(CallgramError):
    """The store is not usable: see to the database."""


class OvertakenError(StoreError):
    """Another planner was faster: nothing was written, plan again."""


class IngestError(CallgramError):
    """The sender is at fault. Answered as ``status`` with the message, and nothing is stored. ``retry_after_s``: whole seconds
    that the sender is told to wait, 0 where waiting does not help."""

    def __init__(self, status: int, message: str, *, field: str | None = None, retry_after_s: int = 0) -> None:
        self.status = status
        self.field = field
        self.retry_after_s = retry_after_s
        super().__init__(message)
