"""Faults on request: the next requests that match go wrong in a named way."""

from typing import Literal

from msgspec import Struct

Action = Literal[
    "hold",
    "drop_before",
    "execute_then_drop",
    "502",
    "truncated",
    "500_after",
    "429_5",
    "deleted_at_once",
    "message_id_0",
]


class Fault(Struct, kw_only=True, forbid_unknown_fields=True):
    """One fault; an absent condition matches everything."""

    action: Action
    method: str | None = None
    """In any letter case."""
    bot_id: int | None = None
    chat_id: int | None = None
    times: int = 1
    seconds: float = 1.0
    """How long ``hold`` holds."""
    executed: bool = False
    """Whether the request takes effect under ``502`` and ``429_5``; the other actions say it by their name."""

    def matches(self, method: str, bot_id: int, chat_id: int) -> bool:
        return (
            (self.method is None or self.method.lower() == method)
            and self.bot_id in (None, bot_id)
            and self.chat_id in (None, chat_id)
        )


class Faults:
    """A queue: the oldest fault that matches is taken."""

    def __init__(self) -> None:
        self.queue: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self.queue.append(fault)

    def take(self, method: str, bot_id: int, chat_id: int) -> Fault | None:
        for fault in self.queue:
            if fault.matches(method, bot_id, chat_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.queue.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        self.queue.clear()
