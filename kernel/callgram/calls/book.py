"""The book of calls: which events belong to one call, decided by evidence, strongest first.

Keys find the calls (``keys``), weak ones only where the two fit (``ties``). The rules as a table: docs/calls.md. Pure: the
planner looks the keys up and hands the calls in.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from callgram.calls.facts import Facts, fold, merge, opened
from callgram.calls.keys import is_weak, left_keys, lookup_keys, sought_keys, strong_keys, weak_keys
from callgram.calls.story import Call, Direction, tell
from callgram.calls.ties import GRACE, is_fragment, talked, ties
from callgram.events import Event
from callgram.numbers import NumberPlan

__all__ = ["GRACE", "Book", "Touch", "is_weak", "lookup_keys"]


class Touch(msgspec.Struct, frozen=True, kw_only=True):
    """What one event changed: the call that it belongs to now, and the calls that turned out to be the same one."""

    event: Event
    facts: Facts
    absorbed: tuple[int, ...] = ()


class Book:
    """The calls of one enterprise that a batch of events can touch. Feed it events in order of arrival."""

    def __init__(self, plan: NumberPlan) -> None:
        self.plan = plan
        self.calls: dict[int, Facts] = {}
        self._index: dict[str, set[int]] = {}
        self._keys: dict[int, set[str]] = {}
        self.new_keys: dict[int, set[str]] = {}
        self._told: dict[int, tuple[Facts, Call]] = {}

    def told(self, facts: Facts) -> Call:
        """``tell(facts)``, told once as long as the facts stay the same."""
        known = self._told.get(facts.id)
        if known is None or known[0] is not facts:
            known = self._told[facts.id] = (facts, tell(facts, self.plan))
        return known[1]

    def add(self, facts: Facts, keys: Iterable[str]) -> None:
        """Put in a call that the store knows, under the keys by which it was found."""
        self.calls[facts.id] = facts
        for key in keys:
            self._index.setdefault(key, set()).add(facts.id)
            self._keys.setdefault(facts.id, set()).add(key)

    def apply(self, event: Event) -> Touch:
        """Find the call of ``event`` (or open one), fold it in, and merge what it ties together."""
        strong, weak = strong_keys(event), weak_keys(event, self.plan)
        tied = {call for key in strong for call in self._index.get(key, ())}
        facts = fold(self.calls[min(tied)], event) if tied else opened(event)
        absorbed: list[int] = []
        self.calls[facts.id] = facts
        others = [self.calls[call] for call in sorted(tied - {facts.id})]
        for other in others:
            facts = self._absorb(facts, other, absorbed)
        for key in (*weak, *sought_keys(event, self.plan)):
            while (fragment := self._tied(key, facts, event)) is not None:
                facts = self._absorb(facts, fragment, absorbed)
        self._file(facts, [*strong, *weak, *left_keys(event, self.plan)])
        return Touch(event=event, facts=facts, absorbed=tuple(absorbed))

    def close(self, call_id: int, timer: Event) -> Touch:
        """The call's own clock ran out: fold that in. Nothing is correlated by it."""
        facts = self.calls[call_id] = fold(self.calls[call_id], timer)
        return Touch(event=timer, facts=facts)

    def _tied(self, key: str, facts: Facts, event: Event) -> Facts | None:
        """The call that a weak key ties to ``facts``: the latest that fits, or none where a choice would be a guess."""
        at = event.received_at
        known = [self.calls[call] for call in sorted(self._index.get(key, set()) - {facts.id}, reverse=True)]
        fitting = [other for other in known if ties(key, facts, other, at=at, told=self.told, plan=self.plan)]
        fitting = [other for other in fitting if not self.told(other).ended] or fitting
        if fitting and key.startswith("talk:"):
            extension = key.removeprefix("talk:")
            fitting += [other for other in known if other not in fitting and self._may_talk(other, extension, at)]
        guess = key.startswith(("client:", "talk:")) or (key.startswith("pair:") and is_fragment(facts))
        return None if not fitting or (guess and len(fitting) > 1) else fitting[0]

    def _may_talk(self, facts: Facts, extension: str, at: datetime) -> bool:
        call = self.told(facts)
        return call.direction is not Direction.INTERNAL and not call.ended and talked(facts, extension, at)

    def _absorb(self, facts: Facts, other: Facts, absorbed: list[int]) -> Facts:
        merged = merge(facts, other)
        loser = other.id if merged.id == facts.id else facts.id
        absorbed.append(loser)
        self._told.pop(loser, None)
        self.calls.pop(loser)
        self.calls[merged.id] = merged
        lost = self._keys.pop(loser, set())
        for key in lost:
            self._index[key].discard(loser)
            self._index[key].add(merged.id)
        self._keys.setdefault(merged.id, set()).update(lost)
        self.new_keys.setdefault(merged.id, set()).update(lost)
        self.new_keys.setdefault(merged.id, set()).update(self.new_keys.pop(loser, set()))
        return merged

    def _file(self, facts: Facts, keys: Iterable[str]) -> None:
        for key in keys:
            calls = self._index.setdefault(key, set())
            if facts.id not in calls:
                calls.add(facts.id)
                self._keys.setdefault(facts.id, set()).add(key)
                self.new_keys.setdefault(facts.id, set()).add(key)
