"""What a benchmark answers, and how all of them are shown: a table for people, ``build/bench.json`` for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

FILE = Path("build/bench.json")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One number and its bar. ``well`` is a condition beside the bar, ``detail`` what stands behind the number."""

    name: str
    value: float
    bar: float
    better: Literal["≥", "≤"]
    detail: str
    well: bool = True

    @property
    def ok(self) -> bool:
        return self.well and (self.value >= self.bar if self.better == "≥" else self.value <= self.bar)


def write_table(results: list[Result]) -> str:
    rows = [
        (one.name, f"{one.value:.4g}", f"{one.better} {one.bar:g}", "ok" if one.ok else "MISSED", one.detail)
        for one in results
    ]
    header = ("benchmark", "value", "bar", "", "measured")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    return "\n".join(line.rstrip() for line in lines)


def write_json(results: list[Result], *, keep: bool) -> None:
    """Write the numbers; ``keep`` those of earlier runs that ``results`` does not have."""
    known: dict[str, object] = msgspec.json.decode(FILE.read_bytes()) if keep and FILE.is_file() else {}
    known |= {one.name: {"value": round(one.value, 4), "bar": one.bar, "ok": one.ok} for one in results}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=2) + b"\n")
