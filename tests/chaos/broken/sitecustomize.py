"""Deliberately broken builds, for the processes of the chaos suite only: CHAOS_BROKEN names what is taken away."""

import os

BROKEN = os.environ.get("CHAOS_BROKEN", "")


def nothing(*_, **__):
    return None


async def unlimited(self):
    return None


if BROKEN:
    from callgram import cards, delivery, planner

    if BROKEN == "leaves outdated messages":
        cards.Card.outdated = lambda self: ()
    elif BROKEN == "tells the trace nothing":
        delivery.Delivery._note = nothing
    elif BROKEN == "has no budget":
        delivery.Delivery._budget = unlimited
    elif BROKEN == "forgets what it planned":
        planner._Work.fill = nothing
    elif BROKEN == "takes nothing over":
        delivery.Delivery._take_over = nothing
    elif BROKEN == "sends everything twice":
        send = delivery.api.send_message

        async def twice(*args, **more):
            await send(*args, **more)
            return await send(*args, **more)

        delivery.api.send_message = twice
    else:
        raise SystemExit(f"no such broken build: {BROKEN}")
