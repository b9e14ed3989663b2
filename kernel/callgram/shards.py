"""Shards: the enterprises dealt out among the workers of a serve. By a hash that no process and no machine changes."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from callgram.context import Directory, Secret

if TYPE_CHECKING:
    from callgram.store import NewEvent

PARTS = 64
"""An enterprise is in one of so many parts for ever: keys of tables begin with it."""


def part_of(enterprise: str) -> int:
    return zlib.crc32(enterprise.encode()) % PARTS


class Shard(msgspec.Struct, frozen=True):
    """The enterprises in the parts from ``first`` to before ``behind``."""

    first: int = 0
    behind: int = PARTS

    def holds(self, enterprise: str) -> bool:
        return self.first <= part_of(enterprise) < self.behind

    def own(self, events: Sequence[NewEvent]) -> Sequence[NewEvent]:
        """Those of enterprises that it holds."""
        return events if self == WHOLE else [event for event in events if self.holds(event.enterprise)]

    def bots(self, directory: Directory) -> dict[int, Secret]:
        """``{bot id: token}`` of the bots that belong here. One that several enterprises share belongs to the first part."""
        if self == WHOLE:
            return directory.bots()
        homes: dict[int, int] = {}
        for number, enterprise in directory.enterprises.items():
            part = part_of(number)
            homes[enterprise.bot_id] = min(part, homes.get(enterprise.bot_id, part))
        return {bot: token for bot, token in directory.bots().items() if self.first <= homes[bot] < self.behind}


WHOLE = Shard()


def dealt(enterprises: Iterable[str], n_shards: int) -> list[Shard]:
    """All parts in ``n_shards`` (1 to PARTS) shards, with as many of ``enterprises`` in each as can be."""
    counts = Counter(map(part_of, enterprises))
    # What will be added later falls into any part: so a part weighs a little by itself.
    weights = [counts[part] + 1 / PARTS for part in range(PARTS)]
    bounds, reached = [0], 0.0
    for part, weight in enumerate(weights):
        wanted = len(bounds) * sum(weights) / n_shards
        left = n_shards - len(bounds)  # shards that begin behind this part
        nearer = reached + weight / 2 > wanted
        if left and part > bounds[-1] and (nearer or PARTS - part == left):
            bounds.append(part)
        reached += weight
    return [Shard(*pair) for pair in zip(bounds, [*bounds[1:], PARTS], strict=True)]
