"""The dispatcher: awaits each plugin's hook by itself, with a deadline, and contains what goes wrong.

pluggy declares, checks and registers; it cannot await. With its ``firstresult`` a coroutine that would answer ``None``
wins, and one raising plugin ends the call (both measured), so the calling is done here. This is one of the two places
that catch broadly: a plugin must not be able to harm another.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec


class Ending(StrEnum):
    """How one call of one implementation ended."""

    ANSWERED = "answered"
    PASSED = "passed"
    RAISED = "raised"
    TIMED_OUT = "timed_out"

    @property
    def failed(self) -> bool:
        return self in {Ending.RAISED, Ending.TIMED_OUT}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one plugin's hook. ``value`` is its answer; ``error`` says what it raised, without secrets of ours."""

    plugin: str
    hook: str
    ending: Ending
    took_s: float
    value: Any = None
    error: str = ""


class Implementation(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin's function for one hook, in the place where it is called. ``arguments`` are the names that it takes."""

    plugin: str
    hook: str
    function: Callable[..., Coroutine[Any, Any, Any]]
    arguments: tuple[str, ...]
    last: bool
    deadline_s: float


class Dispatcher:
    """Calls hooks. ``implementations`` come in call order; every outcome is handed to ``publish``."""

    def __init__(self, implementations: list[Implementation], publish: Callable[[Outcome], None]) -> None:
        self._publish = publish
        self._of: dict[str, list[Implementation]] = {}
        self._orders: dict[tuple[str, tuple[str, ...]], list[Implementation]] = {}
        for implementation in sorted(implementations, key=lambda one: one.last):  # stable: call order within each half
            self._of.setdefault(implementation.hook, []).append(implementation)

    def plugins(self, *hooks: str) -> tuple[str, ...]:
        """The plugins that implement one of ``hooks``, in call order."""
        return tuple(dict.fromkeys(one.plugin for hook in hooks for one in self._of.get(hook, ())))

    def takes(self, argument: str, plugins: tuple[str, ...], *hooks: str) -> bool:
        """Whether one of ``plugins`` wants to be told ``argument`` by one of ``hooks``."""
        return any(argument in one.arguments for hook in hooks for one in self._asked(hook, plugins))

    def forget(self, plugin: str) -> None:
        """Never ask ``plugin`` again."""
        for hook, known in self._of.items():
            self._of[hook] = [one for one in known if one.plugin != plugin]
        self._orders.clear()

    async def first(
        self, hook: str, plugins: tuple[str, ...], arguments: Callable[[str], dict[str, Any]]
    ) -> Outcome | None:
        """Ask ``plugins`` in turn and stop at the first answer. ``arguments(plugin)`` gives what the hook is called with."""
        for one in self._asked(hook, plugins):
            outcome = self._begin(one, arguments(one.plugin))
            if not isinstance(outcome, Outcome):
                outcome = await self._finish(outcome)
            if outcome.ending is Ending.ANSWERED:
                return outcome
        return None

    async def every(
        self, hook: str, plugins: tuple[str, ...], arguments: Callable[[str], dict[str, Any]]
    ) -> list[Outcome]:
        """Ask all of ``plugins``; their outcomes in call order."""
        outcomes = []
        for one in self._asked(hook, plugins):
            outcome = self._begin(one, arguments(one.plugin))
            outcomes.append(outcome if isinstance(outcome, Outcome) else await self._finish(outcome))
        return outcomes

    def _asked(self, hook: str, plugins: tuple[str, ...]) -> list[Implementation]:
        """File order within each of the two halves (ordinary, trylast), as the enterprise's list of plugins has it."""
        order = self._orders.get((hook, plugins))
        if order is None:
            known = [one for one in self._of.get(hook, ()) if one.plugin in plugins]
            order = self._orders[hook, plugins] = sorted(known, key=lambda one: (one.last, plugins.index(one.plugin)))
        return order

    def _begin(self, one: Implementation, arguments: dict[str, Any]) -> Outcome | _Waiting:
        """Step a hook once. One that never suspends is done then, and no timer is armed: the timer is most of the cost."""
        began = time.perf_counter()
        try:
            coroutine = one.function(**{name: arguments[name] for name in one.arguments})
            waiting_for = coroutine.send(None)
        except StopIteration as done:
            return self._ended(one, began, done.value)
        except BaseException as caught:  # noqa: BLE001 - containment is what this place is for; _failed lets go what must
            return self._failed(one, began, caught)
        return _Waiting(one, began, coroutine, waiting_for)

    async def _finish(self, waiting: _Waiting) -> Outcome:
        one, began = waiting.one, waiting.began
        try:
            async with asyncio.timeout(one.deadline_s):
                value = await _resume(waiting.coroutine, waiting.waiting_for)
        except BaseException as caught:  # noqa: BLE001 - as in _begin
            return self._failed(one, began, caught)
        return self._ended(one, began, value)

    def _failed(self, one: Implementation, began: float, caught: BaseException) -> Outcome:
        """What a hook raised, contained: but for a cancellation that is meant for us, and what ends the interpreter."""
        match caught:
            case TimeoutError():
                return self._ended(one, began, None, Ending.TIMED_OUT, f"no answer within {one.deadline_s} s")
            case asyncio.CancelledError():
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise caught
                return self._ended(one, began, None, Ending.RAISED, "CancelledError leaked out of the hook")
            case Exception() | SystemExit() | GeneratorExit():
                return self._ended(one, began, None, Ending.RAISED, f"{type(caught).__name__}: {caught}"[:500])
        raise caught

    def _ended(
        self, one: Implementation, began: float, value: Any, ending: Ending | None = None, error: str = ""
    ) -> Outcome:
        if ending is None:
            ending = Ending.PASSED if value is None else Ending.ANSWERED
        took_s = time.perf_counter() - began
        outcome = Outcome(plugin=one.plugin, hook=one.hook, ending=ending, took_s=took_s, value=value, error=error)
        self._publish(outcome)
        return outcome


class _Waiting(NamedTuple):
    """A hook that suspended in its first step, on ``waiting_for``."""

    one: Implementation
    began: float
    coroutine: Coroutine[Any, Any, Any]
    waiting_for: Any


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, Any], waiting_for: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was already stepped to its first suspension, in the same task."""
    while True:
        try:
            sent = yield waiting_for
        except BaseException as thrown:  # noqa: BLE001 - handed on into the coroutine, a cancellation above all
            step = _thrower(coroutine, thrown)
        else:
            step = _sender(coroutine, sent)
        try:
            waiting_for = step()
        except StopIteration as done:
            return done.value


def _thrower(coroutine: Coroutine[Any, Any, Any], thrown: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(thrown)


def _sender(coroutine: Coroutine[Any, Any, Any], sent: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(sent)


def run_now(awaitable: Awaitable[Any]) -> Any:
    """The result of a coroutine that never suspends, without an event loop (for ``cli_commands``)."""
    if not inspect.iscoroutine(awaitable):
        raise TypeError("not a coroutine")
    try:
        awaitable.send(None)
    except StopIteration as done:
        return done.value
    awaitable.close()
    raise RuntimeError("the hook waited for something; cli_commands must answer at once")
