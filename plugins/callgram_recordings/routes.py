"""The route behind the links: sends whoever has a link of ours on to the recording, and nobody else anywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response, get

HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


def make_routes(target_of: Callable[[str], Awaitable[str]]) -> list[Any]:
    @get("/recording/{token:str}", tags=["recordings"])
    async def recording(request: Request[Any, Any, Any]) -> Response[str]:
        """Redirect to the recording that a signed link stands for. 404: no such link, or it has run out."""
        target = await target_of(request.path_params["token"])
        if not target:
            return Response("There is no such recording.", status_code=404, media_type="text/plain", headers=HEADERS)
        return Response("", status_code=302, media_type="text/plain", headers={**HEADERS, "location": target})

    return [recording]
