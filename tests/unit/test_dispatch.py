"""The dispatcher: who is asked, in which order, and that no plugin can harm another or us."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from callgram.dispatch import Dispatcher, Ending, Implementation, Outcome, run_now

HOOK = "render_message"
SOON_S = 0.02  # a deadline that a test can wait for
Hook = Callable[..., Coroutine[Any, Any, Any]]


def implementation(plugin: str, function: Hook, *, last: bool = False, deadline_s: float = 5.0) -> Implementation:
    return Implementation(plugin=plugin, hook=HOOK, function=function, arguments=(), last=last, deadline_s=deadline_s)


def answers(value: Any) -> Hook:
    async def hook() -> Any:
        return value

    return hook


def raises(error: BaseException, *, waits: bool = False) -> Hook:
    async def hook() -> Any:
        if waits:
            await asyncio.sleep(0)
        raise error

    return hook


async def hangs() -> None:
    await asyncio.Event().wait()


class Asked:
    """A dispatcher over ``implementations``, what it published, and asking it."""

    def __init__(self, *implementations: Implementation) -> None:
        self.published: list[Outcome] = []
        self.dispatcher = Dispatcher(list(implementations), self.published.append)
        self.all = tuple(dict.fromkeys(one.plugin for one in implementations))

    def first(self, *plugins: str) -> Outcome | None:
        return asyncio.run(self.dispatcher.first(HOOK, plugins or self.all, lambda plugin: {}))

    def every(self, *plugins: str) -> list[Outcome]:
        return asyncio.run(self.dispatcher.every(HOOK, plugins or self.all, lambda plugin: {}))

    @property
    def order(self) -> list[str]:
        return [outcome.plugin for outcome in self.published]


# Who is asked, and in which order


def test_plugins_are_asked_in_the_order_of_the_file() -> None:
    asked = Asked(implementation("b", answers(None)), implementation("a", answers(None)))
    asked.first()
    assert asked.order == ["b", "a"]


def test_trylast_comes_after_every_ordinary_plugin_and_keeps_the_file_order_among_its_like() -> None:
    asked = Asked(
        implementation("z", answers(None), last=True),
        implementation("y", answers(None), last=True),
        implementation("x", answers(None)),
    )
    asked.every()
    assert asked.order == ["x", "z", "y"]


def test_the_order_of_an_enterprise_s_list_wins_over_that_of_the_file() -> None:
    asked = Asked(*(implementation(name, answers(None)) for name in ("a", "b", "own")))
    asked.every("own", "a", "b")
    assert asked.order == ["own", "a", "b"]


def test_trylast_holds_for_an_enterprise_s_own_plugin_too() -> None:
    asked = Asked(implementation("a", answers(None)), implementation("own", answers(None), last=True))
    asked.every("own", "a")
    assert asked.order == ["a", "own"]


def test_who_is_not_in_the_list_is_not_asked() -> None:
    asked = Asked(implementation("a", answers("A")), implementation("b", answers("B")))
    outcome = asked.first("b")
    assert outcome is not None
    assert (outcome.plugin, asked.order) == ("b", ["b"])


def test_a_hook_that_nobody_implements_has_no_answer() -> None:
    asked = Asked()
    assert asked.first("a") is None
    assert asked.every("a") == []


def test_a_forgotten_plugin_is_never_asked_again() -> None:
    asked = Asked(implementation("a", answers("A")), implementation("b", answers("B")))
    asked.dispatcher.forget("a")
    outcome = asked.first()
    assert outcome is not None
    assert outcome.value == "B"
    assert asked.dispatcher.plugins(HOOK) == ("b",)


def test_the_first_answer_wins_and_ends_the_asking() -> None:
    asked = Asked(*(implementation(name, answers(name)) for name in ("a", "b")))
    outcome = asked.first()
    assert outcome is not None
    assert (outcome.value, asked.order) == ("a", ["a"])


def test_who_answers_none_passes_to_the_next() -> None:
    asked = Asked(implementation("a", answers(None)), implementation("b", answers("B")))
    outcome = asked.first()
    assert outcome is not None
    assert outcome.value == "B"
    assert [one.ending for one in asked.published] == [Ending.PASSED, Ending.ANSWERED]


@pytest.mark.parametrize("value", [0, "", False, [], {}])
def test_an_empty_answer_is_an_answer(value: object) -> None:
    outcome = Asked(implementation("a", answers(value)), implementation("b", answers("B"))).first()
    assert outcome is not None
    assert outcome.value == value


def test_every_asks_all_and_gives_their_outcomes_in_order() -> None:
    asked = Asked(*(implementation(name, answers(name)) for name in ("a", "b", "c")))
    assert [outcome.value for outcome in asked.every()] == ["a", "b", "c"]


def test_a_hook_gets_only_the_arguments_that_it_names_and_those_of_its_own_plugin() -> None:
    async def takes_ctx(ctx: str) -> str:
        return ctx

    async def takes_both(call: int, ctx: str) -> tuple[int, str]:
        return call, ctx

    one = Implementation(plugin="a", hook=HOOK, function=takes_ctx, arguments=("ctx",), last=False, deadline_s=1)
    two = Implementation(
        plugin="b", hook=HOOK, function=takes_both, arguments=("call", "ctx"), last=False, deadline_s=1
    )
    dispatcher = Dispatcher([one, two], lambda outcome: None)
    arguments = {"a": {"ctx": "for a", "call": 7}, "b": {"ctx": "for b", "call": 7}}
    outcomes = asyncio.run(dispatcher.every(HOOK, ("a", "b"), arguments.__getitem__))
    assert [outcome.value for outcome in outcomes] == ["for a", (7, "for b")]


# What goes wrong stays with the one that did it

WRONG = [
    pytest.param(ValueError("no"), "ValueError: no", id="Exception"),
    pytest.param(SystemExit(3), "SystemExit: 3", id="SystemExit"),
    pytest.param(GeneratorExit(), "GeneratorExit: ", id="GeneratorExit"),
    pytest.param(asyncio.CancelledError(), "CancelledError leaked out of the hook", id="leaked CancelledError"),
    pytest.param(ExceptionGroup("two", [ValueError("a"), OSError("b")]), "ExceptionGroup: two", id="group"),
    pytest.param(RecursionError("deep"), "RecursionError: deep", id="RecursionError"),
    pytest.param(StopAsyncIteration(), "StopAsyncIteration", id="StopAsyncIteration"),
]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
@pytest.mark.parametrize(("error", "said"), WRONG)
def test_what_a_hook_raises_counts_as_passing_and_the_next_is_asked(
    error: BaseException, said: str, waits: bool
) -> None:
    asked = Asked(implementation("bad", raises(error, waits=waits)), implementation("good", answers("G")))
    outcome = asked.first()
    assert outcome is not None
    assert outcome.value == "G"
    bad = asked.published[0]
    assert (bad.plugin, bad.ending, bad.ending.failed) == ("bad", Ending.RAISED, True)
    assert said in bad.error


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
def test_a_keyboard_interrupt_is_the_operator_s_and_goes_through(waits: bool) -> None:
    asked = Asked(implementation("a", raises(KeyboardInterrupt(), waits=waits)))
    with pytest.raises(KeyboardInterrupt):
        asked.first()


def test_a_hook_that_hangs_is_given_up_at_its_deadline_and_the_next_is_asked() -> None:
    asked = Asked(implementation("slow", hangs, deadline_s=SOON_S), implementation("good", answers("G")))
    outcome = asked.first()
    assert outcome is not None
    assert outcome.value == "G"
    slow = asked.published[0]
    assert (slow.ending, slow.ending.failed) == (Ending.TIMED_OUT, True)
    assert str(SOON_S) in slow.error
    assert slow.took_s >= SOON_S


def test_a_hook_s_own_timeout_error_is_contained() -> None:
    asked = Asked(implementation("a", raises(TimeoutError("theirs"), waits=True)), implementation("b", answers("B")))
    outcome = asked.first()
    assert outcome is not None
    assert outcome.value == "B"
    assert asked.published[0].ending.failed


def test_a_call_with_wrong_arguments_is_contained() -> None:
    async def wants_more(ctx: object) -> None:
        return None

    asked = Asked(implementation("bad", wants_more), implementation("good", answers("G")))
    assert [outcome.ending for outcome in asked.every()] == [Ending.RAISED, Ending.ANSWERED]


def test_an_endless_error_text_is_cut() -> None:
    asked = Asked(implementation("a", raises(ValueError("x" * 10_000))))
    asked.every()
    assert len(asked.published[0].error) <= 500


def test_a_real_cancellation_of_our_task_goes_through_and_reaches_the_hook() -> None:
    """Only a CancelledError that nobody asked for is the plugin's fault; ours must end the task, or it never stops."""
    cleaned: list[str] = []

    async def main() -> tuple[bool, list[Outcome]]:
        entered = asyncio.Event()

        async def waits() -> None:
            try:
                entered.set()
                await asyncio.Event().wait()
            finally:
                cleaned.append("hook")

        asked = Asked(implementation("a", waits), implementation("b", answers("B")))
        task = asyncio.create_task(asked.dispatcher.first(HOOK, ("a", "b"), lambda plugin: {}))
        await entered.wait()
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled(), asked.published

    assert asyncio.run(main()) == (True, []), "the next plugin is not asked by a task that ends"
    assert cleaned == ["hook"]


def test_a_deadline_leaves_no_cancellation_behind_in_our_task() -> None:
    asked = Asked(implementation("slow", hangs, deadline_s=SOON_S))

    async def main() -> int:
        await asked.dispatcher.every(HOOK, ("slow",), lambda plugin: {})
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(main()) == 0


# A hook is awaited in our own task, as if it were ours


def test_a_hook_may_suspend_many_times() -> None:
    async def suspends() -> int:
        total = 0
        for n in range(5):
            await asyncio.sleep(0)
            total += await asyncio.get_running_loop().run_in_executor(None, lambda n=n: n)
        return total

    outcome = Asked(implementation("a", suspends)).first()
    assert outcome is not None
    assert outcome.value == 10


def test_a_hook_may_use_a_timeout_of_its_own() -> None:
    async def gives_up() -> str:
        try:
            async with asyncio.timeout(SOON_S):
                await asyncio.Event().wait()
        except TimeoutError:
            return "gave up by itself"
        return "?"

    outcome = Asked(implementation("a", gives_up)).first()
    assert outcome is not None
    assert outcome.value == "gave up by itself"


def test_a_hook_may_run_a_task_group() -> None:
    async def parallel() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
        return [task.result() for task in tasks]

    outcome = Asked(implementation("a", parallel)).first()
    assert outcome is not None
    assert outcome.value == [0, 1, 2]


def test_a_task_group_that_fails_is_contained() -> None:
    async def parallel() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
            group.create_task(raises(ValueError("one of two"))())

    asked = Asked(implementation("a", parallel), implementation("b", answers("B")))
    outcome = asked.first()
    assert outcome is not None
    assert outcome.value == "B"


def test_a_hook_can_catch_what_its_awaited_future_raises() -> None:
    async def catches() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, ValueError("later"))
        try:
            await future
        except ValueError as error:
            return f"caught {error}"
        return "?"

    outcome = Asked(implementation("a", catches)).first()
    assert outcome is not None
    assert outcome.value == "caught later"


def test_the_current_task_and_its_context_are_the_same_before_and_after_a_suspension() -> None:
    marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="unset")

    async def looks() -> list[Any]:
        before = (asyncio.current_task(), marker.get())
        await asyncio.sleep(0)
        return [before, (asyncio.current_task(), marker.get())]

    asked = Asked(implementation("a", looks))

    async def main() -> tuple[Any, Any]:
        marker.set("ours")
        outcome = await asked.dispatcher.first(HOOK, ("a",), lambda plugin: {})
        assert outcome is not None
        return outcome.value, (asyncio.current_task(), "ours")

    seen, ours = asyncio.run(main())
    assert seen == [ours, ours]


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that are armed."""

    armed = 0

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.armed += 1
        return super().call_at(*args, **kwargs)


def timers(hook: Hook) -> int:
    asked = Asked(implementation("a", hook))
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(asked.dispatcher.every(HOOK, ("a",), lambda plugin: {}))
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        return loop.armed


async def suspends_once() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("hook", "armed"),
    [
        pytest.param(answers(1), 0, id="answers at once"),
        pytest.param(raises(ValueError()), 0, id="raises at once"),
        pytest.param(suspends_once, 1, id="suspends"),
    ],
)
def test_a_timer_is_armed_only_for_a_hook_that_suspends(hook: Hook, armed: int) -> None:
    assert timers(hook) == armed


# What is told about it


def test_every_call_is_published_with_its_plugin_hook_ending_and_time() -> None:
    asked = Asked(
        implementation("passes", answers(None)),
        implementation("raises", raises(ValueError("no"))),
        implementation("answers", answers("A")),
    )
    outcomes = asked.every()
    assert asked.published == outcomes
    assert [(one.plugin, one.hook, one.ending) for one in outcomes] == [
        ("passes", HOOK, Ending.PASSED),
        ("raises", HOOK, Ending.RAISED),
        ("answers", HOOK, Ending.ANSWERED),
    ]
    assert all(one.took_s >= 0 for one in outcomes)


def test_plugins_of_several_hooks_are_named_once_in_call_order() -> None:
    named = [
        Implementation(plugin=plugin, hook=hook, function=answers(None), arguments=(), last=last, deadline_s=1)
        for plugin, hook, last in (("late", "x", True), ("both", "x", False), ("both", "y", False), ("y", "y", False))
    ]
    assert Dispatcher(named, lambda outcome: None).plugins("x", "y") == ("both", "late", "y")


# run_now


def test_run_now_gives_the_result_of_a_coroutine_that_never_waits() -> None:
    assert run_now(answers(7)()) == 7


def test_run_now_refuses_to_wait() -> None:
    with pytest.raises(RuntimeError, match="must answer at once"):
        run_now(suspends_once())


def test_run_now_refuses_what_is_no_coroutine() -> None:
    with pytest.raises(TypeError):
        run_now(7)  # type: ignore[arg-type]
