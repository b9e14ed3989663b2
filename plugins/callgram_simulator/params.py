"""The parameters of a request: text, whatever way they came, read as leniently as the real server reads them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from callgram_simulator.errors import bad_request

_TRUE = frozenset(("true", "yes", "1"))


class Upload(NamedTuple):
    """A file in a form."""

    name: str
    media_type: str
    body: bytes


class Params:
    """Parameters by name. The real server holds strings only, so JSON values become strings here too."""

    __slots__ = ("_files", "_given")

    def __init__(self, given: Mapping[str, Any], files: Mapping[str, Upload] | None = None) -> None:
        self._given = given
        self._files = files or {}

    def file(self, name: str) -> Upload | None:
        return self._files.get(name)

    def text(self, name: str) -> str:
        value = self._given.get(name)
        if value is None:
            return ""
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()

    def integer(self, name: str) -> int:
        """Answer the number, 0 when it is absent or is none."""
        return lenient_integer(self.text(name))

    def flag(self, name: str) -> bool:
        return self.text(name).strip().lower() in _TRUE

    def integers(self, name: str) -> list[int]:
        """Answer a JSON array of numbers, empty when absent. Raise ``ApiError`` for anything else."""
        source = self.text(name)
        if not source:
            return []
        try:
            values = msgspec.json.decode(source, type=list[int | str])
        except msgspec.MsgspecError as error:
            raise bad_request(f"expected an Array of Integer as {name}") from error
        return [lenient_integer(str(value)) for value in values]


def lenient_integer(source: str) -> int:
    try:
        return int(source)
    except ValueError:
        return 0
