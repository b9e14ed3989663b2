"""Shards: every enterprise is in exactly one of them, and every bot, whoever else uses it."""

from __future__ import annotations

import random

import pytest

from callgram.context import Directory, Enterprise, Secret
from callgram.shards import PARTS, WHOLE, Shard, dealt, part_of

CHANCE = random.Random(20261123)
NUMBERS = [f"{CHANCE.randrange(10**6):06d}" for _ in range(500)]


@pytest.mark.parametrize("n_enterprises", [0, 1, 2, 16, 500])
@pytest.mark.parametrize("n_shards", [1, 2, 3, 16, PARTS])
def test_shards_are_all_parts_each_once(n_shards: int, n_enterprises: int) -> None:
    shards = dealt(NUMBERS[:n_enterprises], n_shards)
    assert len(shards) == n_shards
    assert [part for shard in shards for part in range(shard.first, shard.behind)] == list(range(PARTS))
    assert all(shard.first < shard.behind for shard in shards)


@pytest.mark.parametrize("n_enterprises", [16, 64, 500])
def test_enterprises_are_dealt_out_evenly(n_enterprises: int) -> None:
    numbers = NUMBERS[:n_enterprises]
    most_alike = max(sum(part_of(number) == part for number in numbers) for part in range(PARTS))
    counts = [sum(shard.holds(number) for number in numbers) for shard in dealt(numbers, 2)]
    assert sum(counts) == n_enterprises
    assert max(counts) - min(counts) <= most_alike + 1


def test_a_bot_belongs_to_one_shard_also_where_enterprises_of_several_use_it() -> None:
    enterprises = {
        number: Enterprise(number=number, token=Secret(number), bot_token=Secret(f"{700 + place % 40}:A"))
        for place, number in enumerate(NUMBERS)
    }
    directory = Directory(enterprises=enterprises)
    owned = [bot for shard in dealt(NUMBERS, 5) for bot in shard.bots(directory)]
    assert sorted(owned) == sorted(directory.bots()) == sorted(WHOLE.bots(directory))
    assert Shard(0, 1).bots(directory).keys() < directory.bots().keys()


def test_an_enterprise_keeps_its_part_for_ever() -> None:
    """Rows are stored under it."""
    assert [part_of(number) for number in ("0367", "0400", "Фирма")] == [14, 46, 34]
