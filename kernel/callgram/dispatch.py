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
from typing import Any

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
            outcome = await self._call(one, arguments(one.plugin))
            if outcome.ending is Ending.ANSWERED:
                return outcome
        return None

    async def every(
        self, hook: str, plugins: tuple[str, ...], arguments: Callable[[str], dict[str, Any]]
    ) -> list[Outcome]:
        """Ask all of ``plugins``; their outcomes in call order."""
        return [await self._call(one, arguments(one.plugin)) for one in self._asked(hook, plugins)]

    def _asked(self, hook: str, plugins: tuple[str, ...]) -> list[Implementation]:
        """File order within each of the two halves (ordinary, trylast), as the enterprise's list of plugins has it."""
        order = self._orders.get((hook, plugins))
        if order is None:
            known = [one for one in self._of.get(hook, ()) if one.plugin in plugins]
            order = self._orders[hook, plugins] = sorted(known, key=lambda one: (one.last, plugins.index(one.plugin)))
        return order

    async def _call(self, one: Implementation, arguments: dict[str, Any]) -> Outcome:
        began = time.perf_counter()
        value, error, ending = None, "", Ending.PASSED
        try:
            value = await _step(one.function(**{name: arguments[name] for name in one.arguments}), one.deadline_s)
            ending = Ending.PASSED if value is None else Ending.ANSWERED
        except TimeoutError:
            ending, error = Ending.TIMED_OUT, f"no answer within {one.deadline_s} s"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            ending, error = Ending.RAISED, "CancelledError leaked out of the hook"
        except (Exception, SystemExit, GeneratorExit) as caught:  # noqa: BLE001 - containment is what this place is for
            ending, error = Ending.RAISED, f"{type(caught).__name__}: {caught}"[:500]
        outcome = Outcome(
            plugin=one.plugin,
            hook=one.hook,
            ending=ending,
            took_s=time.perf_counter() - began,
            value=value,
            error=error,
        )
        self._publish(outcome)
        return outcome


async def _step(coroutine: Coroutine[Any, Any, Any], deadline_s: float) -> Any:
    """Run a hook. One that never suspends is done in one step, and no timer is armed: the timer is most of the cost."""
    try:
        waiting_for = coroutine.send(None)
    except StopIteration as done:
        return done.value
    async with asyncio.timeout(deadline_s):
        return await _resume(coroutine, waiting_for)


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
