"""The embedded PostgreSQL on disk: its cluster, its socket directory, its processes, and the leftovers of a kill.

Everything lies in one data directory: ``pg18/`` the cluster (the number is the major version), ``run/`` the socket, and
``postgres.log``.

Call the writing functions only with the lock of the data directory held. Refuses a cluster of another major version or
another user, and to touch anything while a process of an older server lives.
"""

import asyncio
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from callgram_postgres.account import (
    Account,
    EmbeddedPostgresError,
    first_closed,
    give,
    is_private,
    open_private,
    private_dir,
)
from callgram_postgres.binaries import DISTRIBUTION, Binaries

PORT = 5432  # names the socket file; there is no TCP
SOCKET_PATH_LIMIT = 107  # bytes of sun_path without its NUL, unix(7)
LOG_LIMIT_BYTES = 8 * 1024 * 1024

# Promises of callgram: given on the command line, where neither postgresql.conf nor ALTER SYSTEM can take them back.
PROMISES = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "log_error_verbosity": "terse",  # DETAIL prints whole rows, and rows hold bot tokens
    "log_parameter_max_length_on_error": "0",
}
# For one small machine: written to postgresql.conf once, the operator's to change.
DEFAULTS = {
    "shared_buffers": "128MB",
    "max_connections": "60",
    "max_wal_size": "512MB",  # bounds the recovery after a kill
    "wal_level": "minimal",  # nothing replicates from here; pg_dump is the backup
    "max_wal_senders": "0",
    "io_method": "sync",  # three worker processes less
    "max_parallel_workers_per_gather": "0",  # would need more /dev/shm than a container's 64 MB
    "max_logical_replication_workers": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where one embedded PostgreSQL lives, and who runs it. ``data_dir`` is absolute, without symbolic links."""

    data_dir: Path
    account: Account
    binaries: Binaries

    @property
    def cluster(self) -> Path:
        return self.data_dir / f"pg{self.binaries.major}"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def mark(self) -> str:
        """The server's ``cluster_name``: stands in the title of each of its processes, and tells them from others."""
        return f"callgram-{hashlib.sha256(os.fsencode(self.cluster)).hexdigest()[:12]}"


def check_cluster(site: Site) -> None:
    """Raise where the data directory holds a cluster that our binaries or our account must not open."""
    others = [path for path in site.data_dir.glob("pg[0-9]*") if path.name.removeprefix("pg").isdigit()]
    if not site.cluster.exists() and others:
        raise _wrong_version(others[0], others[0].name.removeprefix("pg"), site)
    if not site.cluster.exists():
        return
    if (owner := site.cluster.stat().st_uid) != site.account.uid:
        raise EmbeddedPostgresError(
            f"{site.cluster} belongs to user id {owner}, but {site.account.name} would run it; "
            f"run callgram as its owner, or give it away: chown -R {site.account.name} {site.cluster}"
        )
    written = (site.cluster / "PG_VERSION").read_text().strip()
    if written != site.binaries.major:
        raise _wrong_version(site.cluster, written, site)


def _wrong_version(cluster: Path, written: str, site: Site) -> EmbeddedPostgresError:
    installed = site.binaries.major
    return EmbeddedPostgresError(
        f"{cluster} was written by PostgreSQL {written}, but the installed one is {installed} and cannot open it; "
        f"install '{DISTRIBUTION}=={written}.*' again, or dump the database with it, move {cluster} away, "
        f"and load the dump into {installed}"
    )


def socket_dir(site: Site) -> Path | None:
    """Answer the directory of the socket as the owner has chosen it, or ``None`` where that has not happened yet.

    ``run`` in the data directory, or the one that the file ``socket-dir`` names where that one does not suit.
    """
    near = site.data_dir / "run"
    if _suits_socket(near):
        return near if is_private(near, site.account) else None
    with suppress(FileNotFoundError):
        far = Path(os.fsdecode((site.data_dir / "socket-dir").read_bytes()))
        return far if is_private(far, site.account) else None
    return None


def make_socket_dir(site: Site) -> Path:
    """Answer the socket directory, made or found: 0700 and the account's, which is all the authentication there is."""
    if _suits_socket(site.data_dir / "run"):
        return private_dir(site.data_dir / "run", site.account)
    if (known := socket_dir(site)) is not None:
        return known
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp below
    for base in (Path(candidate) for candidate in candidates if candidate):
        usable = base.is_dir() and os.access(base, os.W_OK) and first_closed(base, site.account) is None
        if usable and _suits_socket(base / f"{site.mark}-12345678"):
            # A random name: a predictable one could be taken by somebody else first.
            made = Path(tempfile.mkdtemp(prefix=f"{site.mark}-", dir=base))
            give(made, site.account)
            record = site.data_dir / "socket-dir.new"
            with open(open_private(record, os.O_WRONLY | os.O_TRUNC, site.account), "wb") as file:
                file.write(os.fsencode(made))
            record.rename(record.with_name("socket-dir"))
            return made
    raise EmbeddedPostgresError(
        f"the socket's path in {site.data_dir} has a comma or more than {SOCKET_PATH_LIMIT} bytes, and there is no "
        "other place for it; set TMPDIR to a short writable directory, or CALLGRAM_DATA_DIR to a shorter one"
    )


def _suits_socket(directory: Path) -> bool:
    """Answer whether a DSN and a socket can name ``directory``; a comma in a DSN's host begins the next host."""
    return "," not in str(directory) and len(os.fsencode(directory / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_LIMIT


def spawn(site: Site, death_signal: signal.Signals, program: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start ``program`` of the binaries as a child that gets ``death_signal`` when our *thread* ends (prctl(2)).

    Output goes to the log. A session of its own: the terminal's Ctrl-C is for callgram, which stops its server last.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    identity = [str(number) for number in (os.getpid(), int(death_signal), site.account.uid, site.account.gid)]
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    log = open_private(site.log, os.O_WRONLY | os.O_APPEND, site.account)
    try:
        return subprocess.Popen(  # noqa: S603 - our own launcher and binaries
            [*launcher, *identity, str(site.binaries.root / "bin" / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**kept, "LC_ALL": "C", "TZ": "UTC"},  # no PG* of the operator, none of our secrets
            start_new_session=True,
        )
    finally:
        os.close(log)


def spawn_server(site: Site, sockets: Path) -> subprocess.Popen[bytes]:
    """Start the server. On our death it gets SIGINT, a fast shutdown: sessions are ended, a checkpoint is written."""
    quoted = str(sockets).replace('"', '""')
    settings = {**PROMISES, "unix_socket_directories": f'"{quoted}"', "cluster_name": site.mark}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return spawn(site, signal.SIGINT, "postgres", ["-D", str(site.cluster), *options])


async def ended(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Wait for the end of ``process``; answer False where it lives longer than ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while process.poll() is None:  # asyncio's own child watching needs the main thread
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def create_cluster(site: Site) -> None:
    """Make the cluster whole or not at all: built beside its place, synced to disk by initdb, then renamed."""
    for leftover in site.data_dir.glob(f"{site.cluster.name}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if site.cluster.exists():
        return
    staging = Path(tempfile.mkdtemp(prefix=f"{site.cluster.name}.new-", dir=site.data_dir))
    give(staging, site.account)
    options = [part for name, value in DEFAULTS.items() for part in ("-c", f"{name}={value}")]
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    account = ["--username=postgres", "--auth=trust", "--no-instructions"]
    process = spawn(site, signal.SIGKILL, "initdb", ["-D", str(staging), *account, *locale, *options])
    try:
        await ended(process, math.inf)
    finally:
        if process.poll() is None:  # cancelled
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise EmbeddedPostgresError(f"initdb could not make {site.cluster}: {log_tail(site)}")
    os.rename(staging, site.cluster)
    descriptor = os.open(site.data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)  # the rename itself
    finally:
        os.close(descriptor)


def servers_of(site: Site) -> list[int]:
    """Answer the pids of live processes of any server on the cluster: a postmaster, or backends that outlived theirs.

    Judged by the command line: root without CAP_SYS_PTRACE, as in a usual container, may not read another user's
    ``/proc/PID/cwd`` (proc(5)); that one only adds servers that an operator started. A zombie has neither, and is none.
    """
    title = f"postgres: {site.mark}:".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_bytes() != b"postgres\n":
                continue
            line = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        cwd = ""
        with suppress(OSError):
            cwd = os.readlink(entry / "cwd")
        if line.startswith(title) or os.fsencode(site.cluster) in line.split(b"\0") or cwd == str(site.cluster):
            pids.append(int(entry.name))
    return pids


def clear_stale_locks(site: Site, sockets: Path) -> None:
    """Remove the pid files of a server that is gone; call only when :func:`servers_of` is empty and the lock is held.

    PostgreSQL would refuse to start where the pid in them answers ``kill(pid, 0)``, as a zombie or a stranger does.
    """
    (site.cluster / "postmaster.pid").unlink(missing_ok=True)
    (sockets / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)


def bound_log(site: Site) -> None:
    """Move a log that has grown too long to ``postgres.log.1``: copied and truncated, as the server keeps it open."""
    with suppress(FileNotFoundError):
        if site.log.stat().st_size > LOG_LIMIT_BYTES:
            older = site.log.with_name("postgres.log.1")
            with (
                open(site.log, "rb") as source,
                open(open_private(older, os.O_WRONLY | os.O_TRUNC, site.account), "wb") as target,
            ):
                shutil.copyfileobj(source, target)
            os.truncate(site.log, 0)


def log_tail(site: Site) -> str:
    """Answer the last lines of the server's log, for an error's text."""
    with open(site.log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 1000))
        lines = file.read().decode(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-4:]) + f" (more in {site.log})"
