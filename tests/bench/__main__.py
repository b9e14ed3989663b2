"""``python -m tests.bench [NAME…]``: run the benchmarks, all or those named; exit code 1 when one misses its bar."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import click
import uvloop
from tests.bench import delivering, details, measures, parts
from tests.bench.report import Result, write_json, write_table

BENCHMARKS: dict[tuple[str, ...], Callable[[], Awaitable[list[Result]]]] = {
    ("help_s",): measures.start,
    ("plan_cost_growth", "plan_events_per_s"): parts.planner,
    ("sender_vs_aiohttp", "sender_vs_aiogram"): parts.sender,
    ("ingest_vs_noop",): measures.ingest,
    ("pipeline_vs_naive",): measures.pipeline,
    ("latency_p50_vs_naive",): measures.latency,
    ("rss_growth",): measures.memory,
    ("flood_vs_theory",): delivering.flood,
    ("takeover_bot_s",): delivering.takeover,
    (
        "details_p99_ms",
        "details_vs_grep",
        "list_p99_ms",
        "sink_records_per_s",
        "drop_day_s",
        "drop_day_slows_ingest",
    ): details.details,
}


def main(names: list[str]) -> int:
    unknown = set(names) - {name for group in BENCHMARKS for name in group}
    if unknown:
        known = ", ".join(name for group in BENCHMARKS for name in group)
        click.echo(f"there is no benchmark {unknown.pop()}; there are {known}", err=True)
        return 2
    results: list[Result] = []
    for group, measure in BENCHMARKS.items():
        if not names or not set(names).isdisjoint(group):
            click.echo(f"… {', '.join(group)}", err=True)
            results += [result for result in uvloop.run(measure()) if not names or result.name in names]
    write_json(results, keep=bool(names))
    click.echo(write_table(results))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
