"""How callgram reaches the Bot API. Values only: importing this imports no HTTP client."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

DEFAULT_API_URL = "https://api.telegram.org"

_Seconds = Annotated[float, Meta(gt=0)]


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``api_url`` is where ``/bot<token>/<method>`` begins: Telegram's own, a self-hosted server's, or the simulator's.

    ``proxy``: ``http://`` and ``https://`` work as they are, ``socks4://`` and ``socks5://`` need aiohttp-socks. It may
    hold a user and a password, and is not shown.

    ``read_timeout_s``: how long an answer may take. Keep it at 60 or more: Telegram holds a send for up to 8 s of flood
    wait and executes it also when nobody listens any more, so every second less makes more ambiguous sends.
    ``connect_timeout_s``: to get a connection, waiting for a free one included; nothing has been sent then.
    ``keep_alive_s``: how long an unused connection is kept; the server closes it after 500 s (HttpServer.h).
    ``pool_limit``: connections at once, of all bots together.
    """

    api_url: str = DEFAULT_API_URL
    proxy: str | None = None
    read_timeout_s: _Seconds = 65.0
    connect_timeout_s: _Seconds = 5.0
    keep_alive_s: _Seconds = 10.0
    pool_limit: Annotated[int, Meta(ge=1)] = 300

    def __repr__(self) -> str:
        return f"SessionSettings(api_url={self.api_url!r}, proxy={'***' if self.proxy else None})"
