"""Access: who reads, and what. Every read of the plugin goes through here; what is not allowed does not exist.

A reader comes by a signed link (one call of one enterprise), a bearer token (one enterprise), or a session (the
enterprises of an operator).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from litestar import Request

from callgram import CallFile, Directory, Store
from callgram_details.accounts import Operator, operator_of, token_of
from callgram_details.keys import Vault

SESSION, LANGUAGES = "callgram_session", ("ru", "en")
MAX_ID = 200  # characters of a UniqueId


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """``call`` is the one call that may be read, ``None``: all of ``enterprises`` (``None``: of all)."""

    enterprises: tuple[str, ...] | None
    call: tuple[str, int] | None = None
    masked: bool = False
    operator: Operator | None = None

    def may(self, enterprise: str) -> bool:
        return self.enterprises is None or enterprise in self.enterprises

    def among(self, known: Iterable[str]) -> list[str]:
        return [enterprise for enterprise in known if self.may(enterprise)]


def reader_of(request: Request, vault: Vault, session_s: int) -> Reader | None:  # type: ignore[type-arg]
    """Who asks; ``None``: nobody that is known."""
    if not vault.is_open:
        return None
    link = request.query_params.get("s")
    if link:
        found = vault.read_link(link, datetime.now(UTC))
        return Reader(enterprises=(found[0],), call=found) if found else None
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        token = token_of(vault, bearer.strip())
        return Reader(enterprises=(token.enterprise,), masked=token.masked) if token else None
    operator = operator_in(request, vault, session_s)
    if operator is None:
        return None
    return Reader(enterprises=operator.enterprises, masked=operator.masked, operator=operator)


def operator_in(request: Request, vault: Vault, session_s: int) -> Operator | None:  # type: ignore[type-arg]
    """Whose session it is: gone with the operator, with a new password, and with the key."""
    told = vault.read_session(request.cookies.get(SESSION, ""), session_s)
    if not isinstance(told, list) or len(told) != 2:
        return None
    operator = operator_of(vault, str(told[0]))
    return operator if operator is not None and operator.seal == told[1] else None


async def call_of(store: Store, directory: Directory, reader: Reader, unique_id: str, chosen: str) -> CallFile | None:
    """The call of ``unique_id`` as far as ``reader`` may see it. ``chosen`` is an enterprise, where ids are not unique."""
    if not 0 < len(unique_id) <= MAX_ID:
        return None
    if reader.call is not None:
        if reader.call[0] not in directory.enterprises:
            return None
        file = await store.call_file(*reader.call)
        return file if file is not None and unique_id in file.channels else None
    allowed = reader.among(directory.enterprises)
    if chosen:
        allowed = [enterprise for enterprise in allowed if enterprise == chosen]
    found = await store.find_calls(allowed, unique_id) if allowed else []
    return await store.call_file(*found[0]) if found else None
