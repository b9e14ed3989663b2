"""Recordings: the last message of a call carries a link to its recording, whenever that becomes known.

A host tells of a recording by ``POST /recording``, before the hangup, after it or hours later; or ``url_template`` says where
the recordings of answered calls are. People get a link of ours, signed and without anything to guess, that leads there; the
call page plays it from here, so that a browser asks nobody else; chats may get the audio itself, as a reply. Stores no audio.
See README.md.
"""

from __future__ import annotations

import base64
import html
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec

from callgram import (
    Audio,
    Call,
    ConfigError,
    Context,
    Enrichment,
    Locale,
    Message,
    Stage,
    Store,
    hookimpl,
    phone,
    tell,
)

PLUGIN, KEY = "recordings", "key"
SALT = "callgram recording"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``base_url``: where people reach this callgram; without it there are no links. ``url_template``: where the recording of an
    answered call is, if no host tells: ``{unique_id}``, ``{file}`` (the name that the hangup tells) and ``{date}`` (of the
    begin, ``2025-09-14``) are filled in. ``link_days``: how long a link holds after it was made. ``audio``: whether chats get
    the recording as a reply, too. Of playing and replies: ``allow_private``, recordings may be fetched from a private network;
    ``max_mb``, a longer one is not played, nor sent (Telegram takes 50); ``timeout_s``, how long a piece of it may take, or
    all of it for a reply.
    """

    base_url: str = ""
    url_template: str = ""
    link_days: int = 14
    audio: Literal["link", "reply"] = "link"
    allow_private: bool = False
    max_mb: Annotated[int, msgspec.Meta(ge=1)] = 200
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 20.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a link leads, and how its enterprise wants recordings to be fetched."""

    url: str
    settings: Settings


Reading = Callable[[str], tuple[Settings, Locale] | None]  # of an enterprise; None where the plugin is off for it


class Recordings:
    """The plugin: signs with a key that it keeps in the store."""

    Settings = Settings

    def __init__(self) -> None:
        self._signer: Any = None
        self._store: Store | None = None
        self._player: Any = None

    @hookimpl
    async def startup(self, ctx: Context) -> None:
        settings: Settings = ctx.settings
        for name, url in (("base_url", settings.base_url), ("url_template", settings.url_template)):
            if url and not is_url(url):
                raise ConfigError(f"plugin 'recordings': {name} must start with http:// or https://")
        if ctx.store is None:
            return
        from itsdangerous import URLSafeTimedSerializer

        self._store = ctx.store
        key = await ctx.store.keep_first(PLUGIN, KEY, base64.b64encode(secrets.token_bytes(32)))
        self._signer = URLSafeTimedSerializer(key, salt=SALT)

    @hookimpl
    async def shutdown(self, ctx: Context) -> None:
        if self._player is not None:
            await self._player.close()

    @hookimpl
    async def http_routes(self, ctx: Context) -> list[Any] | None:
        from callgram_recordings.player import Player
        from callgram_recordings.routes import make_routes  # litestar: not for `callgram --help`

        self._player = Player()
        return make_routes(self._player, lambda token, now: self.target_of(token, now, _reading(ctx)))

    @hookimpl
    async def enrich_call(self, ctx: Context, call: Call) -> Enrichment | None:
        settings: Settings = ctx.settings
        if self._signer is None or not settings.base_url or call.recording_link:
            return None
        if not address_of(call, settings, ctx.locale):
            return None
        token = self._signer.dumps([call.enterprise, call.id])
        return Enrichment(recording=f"{settings.base_url.rstrip('/')}/recording/{token}")

    @hookimpl
    async def decorate_message(self, ctx: Context, call: Call, stage: Stage, message: Message) -> Message | None:
        """Chats are told of the link by the message itself (callgram.lines); the audio comes beside."""
        settings: Settings = ctx.settings
        if settings.audio != "reply" or stage is not Stage.HANGUP or not call.ended:
            return None
        address = address_of(call, settings, ctx.locale)
        if not address:
            return None
        title = f"{call.began_at.astimezone(ctx.locale.tz):%Y-%m-%d %H:%M} {html.unescape(phone(call.client))}".strip()
        audio = Audio(
            url=address,
            title=title,
            allow_private=settings.allow_private,
            max_mb=settings.max_mb,
            timeout_s=settings.timeout_s,
        )
        return msgspec.structs.replace(message, audio=audio)

    async def target_of(self, token: str, now: datetime, reading: Reading) -> Target | None:
        """Where a link leads now, ``None`` where it is not one of ours, has run out, or the call is no longer kept.

        What the host told last counts: the link in the message stays the same when a recording moves.
        """
        from itsdangerous import BadData

        if self._signer is None or self._store is None:
            return None
        try:
            (enterprise, call_id, *_), signed_at = self._signer.loads(token, return_timestamp=True)
        except (BadData, ValueError, TypeError):
            return None
        read = reading(enterprise)
        if read is None or enterprise not in (await self._store.directory()).enterprises:
            return None
        settings, locale = read
        if now - signed_at > timedelta(days=settings.link_days):
            return None
        file = await self._store.call_file(enterprise, call_id, limit=1)
        url = address_of(tell(file.facts, locale.plan), settings, locale) if file is not None else ""
        return Target(url=url, settings=settings) if url else None


def _reading(ctx: Context) -> Reading:
    """How each enterprise has the plugin set, by the process's plugins.toml."""

    def read(enterprise: str) -> tuple[Settings, Locale] | None:
        plugins = ctx.process.plugins
        if PLUGIN not in plugins.enabled(enterprise):
            return None
        entry = plugins.enterprise.get(enterprise)
        own = entry.settings.get(PLUGIN, {}) if entry else {}
        return msgspec.structs.replace(ctx.settings, **own), plugins.call_settings(enterprise).locale()

    return read


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def address_of(call: Call, settings: Settings, locale: Locale) -> str:
    """Where the recording of ``call`` is: as a host told, else by the rule; ``""`` where nobody knows."""
    if is_url(call.recording):
        return call.recording
    return from_template(settings.url_template, call, str(call.began_at.astimezone(locale.tz).date()))


def from_template(template: str, call: Call, date: str) -> str:
    """The recording's address by the enterprise's rule, ``""`` for a call that has none: nobody talked, or it goes on."""
    if not template or not call.ended or not call.answered:
        return ""
    told = {"unique_id": call.unique_id, "file": call.recording.rpartition("/")[2], "date": date}
    if "{file}" in template and not told["file"]:
        return ""
    for name, value in told.items():
        template = template.replace(f"{{{name}}}", quote(value, safe=""))
    return template
