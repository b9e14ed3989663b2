"""The host's times: local text without a zone, read with the enterprise's zone, and refused where it is nonsense. Pure.

Nothing behind this module sees a naive datetime. Arrival is the clock that is trusted; these times are shown or used
only where arrival says nothing, because the event came late.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

AHEAD = timedelta(minutes=10)  # a host's clock may be so much fast
BEHIND = timedelta(days=30)  # an event may be delivered so late; older is a clock that was never set
BURST = timedelta(milliseconds=300)
SAME_PACE = timedelta(seconds=3)  # host times are whole seconds, and hangups come 2 s after the end
LATE_S = 60.0  # a hangup comes 2 to 7 s after its EndTime (docs/events.md); past this, arrival is not the end


@lru_cache(4096)
def host_time(text: str, zone: str) -> datetime | None:
    """``2025-09-14 12:05:23`` of a host in ``zone`` as aware UTC; ``None`` where it cannot be read. An offset wins."""
    try:
        told = datetime.fromisoformat(text)
        return (told if told.tzinfo else told.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def host_times(start: str, end: str, arrived_at: datetime, zone: str) -> tuple[datetime | None, datetime | None, str]:
    """When a call began and ended by its host, and what is wrong: ``(None, None, reason)`` where either is nonsense."""
    began, ended = host_time(start, zone), host_time(end, zone)
    for name, text, at in (("StartTime", start, began), ("EndTime", end, ended)):
        if not text:
            continue
        if at is None:
            return None, None, f"{name} is no time"
        if at > arrived_at + AHEAD:
            return None, None, f"{name} is in the future"
        if at < arrived_at - BEHIND:
            return None, None, f"{name} is years or months off"
    if began and ended and ended < began:
        return None, None, "EndTime is before StartTime"
    return began, ended, ""


def clock_is_off(began: datetime, ended: datetime, first_at: datetime, arrived_at: datetime) -> bool:
    """The events came at the pace of the call, but the host dates it long ago: not they are late, its clock or zone is
    wrong. What is delivered late comes in a burst."""
    lived, told = arrived_at - first_at, ended - began
    dated_back = (arrived_at - ended).total_seconds() > LATE_S
    return dated_back and lived > BURST and abs(lived - told) <= SAME_PACE
