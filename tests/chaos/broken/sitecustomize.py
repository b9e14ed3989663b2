"""Deliberately broken builds, for the processes of the chaos suite only: CHAOS_BROKEN names what is taken away."""

import asyncio
import os
from typing import Any

BROKEN = os.environ.get("CHAOS_BROKEN", "")


def nothing(*_: Any, **__: Any) -> None:
    return None


def unlimited(*_: Any, **__: Any) -> None:
    return None


if BROKEN:
    from callgram import cards, deciding, delivery, store

    if BROKEN == "leaves outdated messages":
        cards.Card.outdated = lambda self: ()  # type: ignore[method-assign]
    elif BROKEN == "tells the trace nothing":
        delivery.Delivery._note = nothing  # type: ignore[method-assign]
    elif BROKEN == "has no budget":
        delivery.Delivery._budget = unlimited  # type: ignore[method-assign]
    elif BROKEN == "forgets what it planned":

        def only_done(self: Any, _: Any) -> store.Planned:
            return store.Planned(done=self._planned.done)

        deciding._Work.fill = only_done  # type: ignore[method-assign]
    elif BROKEN == "sends everything twice":
        send = delivery.api.send_message

        async def twice(*args: Any, **more: Any) -> Any:
            await send(*args, **more)
            return await send(*args, **more)

        delivery.api.send_message = twice
    elif BROKEN == "goes back":
        send_once = delivery.api.send_message

        async def waver(session: Any, token: Any, chat: int, message: Any, **more: Any) -> Any:
            outcome = await send_once(session, token, chat, message, **more)
            earlier = cards.Message(message.html.replace("✅", "📞").replace("❌", "📞"))
            if outcome.ok and earlier != message:
                for text in (earlier, message):
                    await delivery.api.edit_message(session, token, chat, outcome.message_id, text)
            return outcome

        delivery.api.send_message = waver
    elif BROKEN == "plans without the fence":
        from callgram_postgres import batch

        for name, fence in (
            ("take_pending", "FOR UPDATE SKIP LOCKED"),
            ("write_plan", "FOR UPDATE SKIP LOCKED"),
            ("write_plan", "NOT e.done AND"),
            ("write_plan", "AND k.version = coalesce($33::bigint, k.version)"),
        ):
            assert fence in batch.SQL[name]
            batch.SQL[name] = batch.SQL[name].replace(fence, "")
        commit = batch.PostgresBatch.commit

        async def slowly(*args: Any) -> Any:
            await asyncio.sleep(0.3)
            return await commit(*args)

        batch.PostgresBatch.commit = slowly  # type: ignore[method-assign]
    elif BROKEN == "takes nothing over":
        from callgram_postgres import sending

        free = "OR l.until < clock_timestamp()"
        assert free in sending.SQL["hold_leases"]
        sending.SQL["hold_leases"] = sending.SQL["hold_leases"].replace(free, "")
    else:
        raise SystemExit(f"no such broken build: {BROKEN}")
