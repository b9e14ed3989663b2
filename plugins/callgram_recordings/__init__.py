"""Recordings: the last message of a call carries a link to its recording, whenever that becomes known.

A host tells of a recording by ``POST /recording``, before the hangup, after it or hours later; or ``url_template`` says where
the recordings of answered calls are. People get a link of ours, signed and without anything to guess, that leads there.
Stores no audio and fetches none. See README.md.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any
from urllib.parse import quote

import msgspec

from callgram import Call, ConfigError, Context, Enrichment, Store, hookimpl

PLUGIN, KEY = "recordings", "key"
SALT = "callgram recording"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``base_url``: where people reach this callgram; without it there are no links. ``url_template``: where the recording of an
    answered call is, if no host tells: ``{unique_id}``, ``{file}`` (the name that the hangup tells) and ``{date}`` (of the
    begin, ``2025-09-14``) are filled in. ``link_days``: how long a link holds after the call.
    """

    base_url: str = ""
    url_template: str = ""
    link_days: int = 14


class Recordings:
    """The plugin: signs with a key that it keeps in the store."""

    Settings = Settings

    def __init__(self) -> None:
        self._signer: Any = None
        self._store: Store | None = None

    @hookimpl
    async def startup(self, ctx: Context) -> None:
        settings: Settings = ctx.settings
        for name, url in (("base_url", settings.base_url), ("url_template", settings.url_template)):
            if url and not url.startswith(("http://", "https://")):
                raise ConfigError(f"plugin 'recordings': {name} must start with http:// or https://")
        if ctx.store is None:
            return
        from itsdangerous import URLSafeTimedSerializer

        self._store = ctx.store
        key = await ctx.store.keep_first(PLUGIN, KEY, base64.b64encode(secrets.token_bytes(32)))
        self._signer = URLSafeTimedSerializer(key, salt=SALT)

    @hookimpl
    async def http_routes(self, ctx: Context) -> list[Any] | None:
        from callgram_recordings.routes import make_routes  # litestar: not for `callgram --help`

        max_age_s = ctx.settings.link_days * 86_400
        return make_routes(lambda token: self.target_of(token, max_age_s))

    @hookimpl
    async def enrich_call(self, ctx: Context, call: Call) -> Enrichment | None:
        settings: Settings = ctx.settings
        if self._signer is None or not settings.base_url or call.recording_link:
            return None
        told = is_url(call.recording)
        made = (
            ""
            if told
            else from_template(settings.url_template, call, str(call.began_at.astimezone(ctx.locale.tz).date()))
        )
        if not told and not made:
            return None
        token = self._signer.dumps([call.enterprise, call.id, made])
        return Enrichment(recording=f"{settings.base_url.rstrip('/')}/recording/{token}")

    async def target_of(self, token: str, max_age_s: int) -> str:
        """Where a link leads now, ``""`` where it is not one of ours, has run out, or the call is no longer kept.

        What the host told last counts: the link in the message stays the same when a recording moves.
        """
        from itsdangerous import BadData

        if self._signer is None or self._store is None:
            return ""
        try:
            enterprise, call_id, made = self._signer.loads(token, max_age=max_age_s)
        except (BadData, ValueError):
            return ""
        if made:
            return str(made)
        file = await self._store.call_file(enterprise, call_id, limit=1)
        return file.facts.recording if file is not None and is_url(file.facts.recording) else ""


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


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
