"""Naming: what the store knows about numbers, and about earlier calls with a client. A part of its protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, Protocol

from callgram.events import History

NameTable = Literal["customers", "extensions", "lines"]


class Naming(Protocol):
    """The naming half of :class:`callgram.store.Store`. Numbers of customers are canonical (callgram.numbers)."""

    async def names(self, enterprise: str, table: NameTable, numbers: Iterable[str]) -> dict[str, str]:
        """``{number: name}`` of those of ``numbers`` that have one."""
        ...

    async def put_names(self, enterprise: str, table: NameTable, names: Mapping[str, str]) -> None:
        """Add or change names; an empty one is forgotten. All or nothing."""
        ...

    async def history(self, enterprise: str, client: str, *, before: datetime) -> History | None:
        """How often ``client`` (canonical) called in before, as far as calls are kept; ``None``: never."""
        ...
