"""Deliberately broken builds, for the processes of the chaos suite only: CHAOS_BROKEN names what is taken away."""

import os
from typing import Any

BROKEN = os.environ.get("CHAOS_BROKEN", "")


def nothing(*_: Any, **__: Any) -> None:
    return None


async def unlimited(*_: Any, **__: Any) -> None:
    return None


if BROKEN:
    from callgram import cards, delivery, planner

    if BROKEN == "leaves outdated messages":
        cards.Card.outdated = lambda self: ()  # type: ignore[method-assign]
    elif BROKEN == "tells the trace nothing":
        delivery.Delivery._note = nothing  # type: ignore[method-assign]
    elif BROKEN == "has no budget":
        delivery.Delivery._budget = unlimited  # type: ignore[method-assign]
    elif BROKEN == "forgets what it planned":
        planner._Work.fill = nothing  # type: ignore[method-assign]
    elif BROKEN == "sends everything twice":
        send = delivery.api.send_message

        async def twice(*args: Any, **more: Any) -> Any:
            await send(*args, **more)
            return await send(*args, **more)

        delivery.api.send_message = twice
    else:
        raise SystemExit(f"no such broken build: {BROKEN}")
