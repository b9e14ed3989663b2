"""Details: what came in, what was done, and why not, of any call, on a page, in lists, exports and an API.

Reads the store; keeps in it the key that signs links, the operators' accounts and the API's tokens. Shows nothing to
anybody without a link, a session or a token, and never a secret.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec

from callgram import Call, Context, Message, Stage, catalogue, hookimpl
from callgram_details.keys import Vault


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``base_url`` is where people reach this callgram, such as ``https://calls.example.com``; without it the messages have
    no button. ``link_days`` is how long a button's link holds after the end of its call, ``session_hours`` a login.
    ``button``: whether the final message has one. An enterprise can have its own ``base_url``, ``link_days``, ``button``.
    """

    base_url: str = ""
    link_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 14
    session_hours: Annotated[float, msgspec.Meta(gt=0, le=24 * 31)] = 12.0
    button: bool = True

    def __post_init__(self) -> None:
        if not self.base_url:
            return
        parts = urlsplit(self.base_url)
        # Telegram refuses buttons with other addresses, and with them the message (Bot API, BUTTON_URL_INVALID).
        if parts.scheme not in {"http", "https"} or "." not in (parts.hostname or "") or parts.query or parts.fragment:
            raise ValueError(f"base_url is {self.base_url!r}; use an address such as https://calls.example.com")


class Details:
    """The plugin."""

    Settings = Settings

    def __init__(self) -> None:
        self._vault = Vault()

    @hookimpl
    async def startup(self, ctx: Context) -> None:
        if ctx.store is not None:
            await self._vault.open(ctx.store)

    @hookimpl
    async def shutdown(self, ctx: Context) -> None:
        await self._vault.close()

    @hookimpl
    async def http_routes(self, ctx: Context) -> list[Any] | None:
        from callgram_details.lists import make_list_routes  # litestar and jinja2: not for `callgram --help`
        from callgram_details.routes import Site, make_routes

        site = Site(ctx.store, self._vault, ctx.settings, ctx.process)
        return [*make_routes(site), *make_list_routes(site)]

    @hookimpl
    async def cli_commands(self, ctx: Context) -> list[Any] | None:
        from callgram_details.command import details, operator

        return [operator, details]

    @hookimpl
    async def decorate_message(self, ctx: Context, call: Call, stage: Stage, message: Message) -> Message | None:
        settings: Settings = ctx.settings
        if stage is not Stage.HANGUP or not settings.base_url or not settings.button or not self._vault.is_open:
            return None
        # By the call's own clock, never by ours: another link would be another message, and an edit.
        expires_at = (call.ended_at or call.started_at) + timedelta(days=settings.link_days)
        link = self._vault.sign_link(call.enterprise, call.id, expires_at.replace(microsecond=0))
        url = f"{settings.base_url.rstrip('/')}/call/details/{quote(call.unique_id, safe='')}?s={link}"
        button = {"text": catalogue(__name__, ctx.locale.language)["button"], "url": url}
        return msgspec.structs.replace(message, keyboard=(*message.keyboard, (button,)))
