"""Keys and links: what the plugin keeps in the store, and the signed link to one call. Links carry no secret.

A link is bound to an enterprise and a call and says itself until when it holds. It is made of the call alone, so that
drawing a message twice gives the same link. One key signs links and sessions; rotating it revokes all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import datetime
from typing import Any

from itsdangerous import BadData, URLSafeSerializer, URLSafeTimedSerializer
from loguru import logger

from callgram import Store, StoreError

PLUGIN = "details"
KEY = "signing-key"
REFRESH_S = 5.0  # a rotated key, a removed operator and a withdrawn token are noticed within so long


def new_key() -> bytes:
    return secrets.token_hex(32).encode()


class Vault:
    """What the plugin keeps, as it was a few seconds ago. ``watch`` renews it for the life of the process."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._kept: dict[str, bytes] = {}
        self._watching: asyncio.Task[None] | None = None

    async def open(self, store: Store) -> None:
        self._store = store
        await store.keep_first(PLUGIN, KEY, new_key())
        await self.renew()
        self._watching = asyncio.create_task(self._watch(), name="details")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def renew(self) -> None:
        if self._store is not None:
            self._kept = await self._store.kept(PLUGIN)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.renew()
            except StoreError as error:
                logger.warning("details: accounts and keys are not renewed: {}", error)

    def get(self, key: str) -> bytes | None:
        return self._kept.get(key)

    @property
    def is_open(self) -> bool:
        return KEY in self._kept

    def _key(self) -> bytes:
        return self._kept[KEY]

    def sign_link(self, enterprise: str, call_id: int, expires_at: datetime) -> str:
        """The ``s`` of a link. Equal for equal arguments while the key is the same."""
        return str(_links(self._key()).dumps([enterprise, call_id, int(expires_at.timestamp())]))

    def read_link(self, text: str, now: datetime) -> tuple[str, int] | None:
        """``(enterprise, call id)``; ``None`` when it was not signed here, or has expired."""
        try:
            enterprise, call_id, expires = _links(self._key()).loads(text)
        except (BadData, ValueError, TypeError):
            return None
        return (enterprise, call_id) if now.timestamp() < expires else None

    def sign_session(self, told: Any) -> str:
        return str(URLSafeTimedSerializer(self._key(), salt="session", signer_kwargs=_SIGNER).dumps(told))

    def read_session(self, text: str, max_age_s: int) -> Any:
        try:
            return URLSafeTimedSerializer(self._key(), salt="session", signer_kwargs=_SIGNER).loads(
                text, max_age=max_age_s
            )
        except BadData:
            return None

    def sign_form(self, told: str) -> str:
        """The token of a form, bound to ``told`` (a cookie)."""
        return str(URLSafeSerializer(self._key(), salt="form", signer_kwargs=_SIGNER).dumps(told))

    def is_form(self, token: str, told: str) -> bool:
        return bool(told) and secrets.compare_digest(token.encode(), self.sign_form(told).encode())


_SIGNER = {"digest_method": "sha256", "key_derivation": "hmac"}


def _links(key: bytes) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt="call", signer_kwargs=_SIGNER)
