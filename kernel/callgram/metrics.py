"""What callgram counts about itself, for Prometheus at ``GET /metrics``. Labels never hold a token, a number or a chat."""

from __future__ import annotations

import os
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

EVENTS_STORED = Counter("callgram_events_stored_total", "Events stored", ["kind"])
EVENTS_REPEATED = Counter("callgram_events_repeated_total", "Events recognised as repeated and not stored again")
EVENTS_REFUSED = Counter("callgram_events_refused_total", "Requests refused", ["status"])
COMMIT_SECONDS = Histogram("callgram_commit_seconds", "Duration of an ingest transaction, until it is durable", buckets=_FAST)
EVENTS_PLANNED = Counter("callgram_events_planned_total", "Events planned")
EVENTS_FAILED = Counter("callgram_events_failed_total", "Events parked because they could not be planned")
PLAN_SECONDS = Histogram("callgram_plan_seconds", "Duration of a planning transaction", buckets=_FAST)
TELEGRAM_CALLS = Counter("callgram_telegram_calls_total", "Calls of the Bot API", ["op", "outcome"])
TELEGRAM_SECONDS = Histogram("callgram_telegram_seconds", "Duration of a Bot API call", ["op"])


@cache
def _call_children(op: str, outcome: str) -> tuple[Counter, Histogram]:
    """Looking a child up by its labels costs as much as counting."""
    return TELEGRAM_CALLS.labels(op, outcome), TELEGRAM_SECONDS.labels(op)


def count_call(op: str, outcome: str, took_s: float) -> None:
    """One call of the Bot API has ended."""
    calls, seconds = _call_children(op, outcome)
    calls.inc()
    seconds.observe(took_s)


SKIPS = Counter("callgram_skips_total", "Stages that were not sent", ["reason"])
HOOK_FAILURES = Counter("callgram_hook_failures_total", "Hook calls that raised or hung", ["plugin", "hook", "ending"])
BOTS_OWNED = Gauge("callgram_bots_owned", "Bots that this node sends for", multiprocess_mode="livesum")
SINK_LAG = Gauge("callgram_sink_lag_seconds", "How far a sink is behind", ["sink"], multiprocess_mode="livemax")


def exposition() -> bytes:
    """What Prometheus is told: of all workers of this serve, where they have a directory in common (callgram.workers)."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
