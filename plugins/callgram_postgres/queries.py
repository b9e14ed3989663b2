"""The plugin's SQL, read from ``sql/*.sql``: each under ``-- name: xyz`` and a comment on what it does."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def queries(file: str) -> dict[str, str]:
    """Answer ``{name: SQL}`` of ``sql/<file>.sql``. The comments stay outside of the SQL that is sent."""
    text = Path(__file__).with_name("sql").joinpath(f"{file}.sql").read_text(encoding="utf-8")
    _, *pieces = _NAME.split(text)
    return {name: _without_comments(sql) for name, sql in zip(pieces[::2], pieces[1::2], strict=True)}


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--")).strip()
