"""The embedded PostgreSQL: started with callgram where no DSN is configured, and gone when callgram is gone.

One process owns the server: the one that holds the lock of the data directory, ``postgres.lock``. The server is its
direct child and gets a fast shutdown from the kernel when the owner ends, however it ends. Other processes are guests
on the owner's socket. Durable: fsync and synchronous commit are on, and cannot be turned off by the configuration.

Writes only below the data directory, or a private socket directory elsewhere where the path is too long for a socket.
Refuses TCP, root as the server's user, another major version's cluster, and to signal a server that it did not start.
Linux only: prctl, /proc.
"""

import asyncio
import enum
import fcntl
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlencode

import asyncpg
from loguru import logger

from callgram_postgres.account import EmbeddedPostgresError, choose_account, open_private, prepare_data_dir
from callgram_postgres.binaries import installed_binaries, reachable_binaries
from callgram_postgres.cluster import (
    PORT,
    Site,
    bound_log,
    check_cluster,
    clear_stale_locks,
    create_cluster,
    ended,
    log_tail,
    make_socket_dir,
    servers_of,
    socket_dir,
    spawn_server,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

GUEST_PATIENCE_S = 15.0
OLD_SERVER_PATIENCE_S = 60.0  # a shutdown checkpoint of max_wal_size on a slow disk
SILENT_START_PATIENCE_S = 60.0  # without any answer; one that answers "recovering" may take as long as it needs
SHUTDOWN = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))  # fast, immediate, at any price
RESTART_PAUSE_S = (0.1, 30.0)  # first, longest
STEADY_S = 60.0  # a server that ran so long starts again from the first pause
LOG_CHECK_S = 60.0
# What asyncpg raises beside PostgresError when a connection is lost in the middle of a statement.
CUT_SHORT = (asyncpg.InterfaceError, asyncpg.InternalClientError)


class Answer(enum.Enum):
    """What a try to connect tells about a server."""

    READY = enum.auto()
    DATABASE_MISSING = enum.auto()
    STARTING = enum.auto()  # or recovering, or shutting down
    DOWN = enum.auto()


async def probe(dsn: str) -> Answer:
    """Connect, ask for 1, answer what came of it."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            await connection.fetchval("SELECT 1")
        finally:
            connection.terminate()
    except (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError):
        return Answer.DATABASE_MISSING
    except asyncpg.TooManyConnectionsError:  # its clients came back before us
        return Answer.READY
    except (asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError):
        return Answer.STARTING
    except (OSError, asyncpg.PostgresConnectionError, *CUT_SHORT):
        return Answer.DOWN
    except asyncpg.PostgresError as error:
        raise EmbeddedPostgresError(f"the embedded PostgreSQL turns us away: {error}; see its postgres.log") from error
    return Answer.READY


class EmbeddedPostgres:
    """One life of the embedded server, or of a guest's use of it: ``start``, ``stop``, and then make another.

    ``start`` and ``watch`` belong on the event loop of a thread that lives as long as the process, as the main thread
    does: the kernel shuts the server down when the *thread* that forked it ends (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(self, data_dir: Path, *, database: str = "callgram", user: str = "callgram") -> None:
        self._data_dir = Path(os.path.realpath(data_dir))
        self._database = database
        self._user = user
        self._site: Site | None = None
        self._sockets: Path | None = None
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def dsn(self) -> str:
        """For ``asyncpg.connect`` and libpq, valid over restarts of the server; raises before ``start`` is through."""
        return self._dsn(self._database, self._user)

    @property
    def owner(self) -> bool:
        """Whether the server is ours, to be watched by :meth:`watch`; False for a guest and before ``start``."""
        return self._lock is not None

    async def start(self, *, as_guest_ok: bool) -> None:
        """Own the server, or with ``as_guest_ok`` use another process's; returns when it takes connections.

        A guest waits up to 15 s for the owner's server, and becomes the owner where that one goes away meanwhile.
        Raises EmbeddedPostgresError, and then has left no process and no lock behind.
        """
        if self._site is not None:
            raise EmbeddedPostgresError(f"start of the embedded PostgreSQL in {self._data_dir} was called twice")
        through = False
        try:
            self._site = self._survey()
            deadline = time.monotonic() + GUEST_PATIENCE_S
            while not (claimed := self._claim(self._site)):
                if not as_guest_ok:
                    raise EmbeddedPostgresError(self._taken(self._site) + "; stop it, or set another CALLGRAM_DATA_DIR")
                if await self._visit(self._site):
                    break
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"{self._taken(self._site)}, whose server let nobody into the database {self._database!r} "
                        f"for {GUEST_PATIENCE_S:.0f} s; see {self._site.log}"
                    )
                await asyncio.sleep(0.05)
            if claimed:
                await self._first_start(self._site)
            through = True
        except OSError as error:
            raise EmbeddedPostgresError(
                f"cannot use the data directory {self._data_dir}: {error}; run callgram as the user who owns it, "
                "or choose another by CALLGRAM_DATA_DIR"
            ) from error
        finally:
            if not through:
                await self.stop()

    async def stop(self) -> None:
        """Shut the server down where we own it, then give up the lock. Idempotent; a guest only forgets the server."""
        self._stopped = True
        if self._process is not None:
            for number, patience_s in SHUTDOWN:
                self._process.send_signal(number)  # does nothing once it has ended
                if await ended(self._process, patience_s):
                    break
        if self._lock is not None:
            if self._sockets is not None and self._sockets.parent != self._data_dir:
                with suppress(OSError):  # not empty after a kill; the next owner finds it by its record
                    self._sockets.rmdir()
            os.close(self._lock)
            self._lock = None

    async def watch(self) -> None:
        """Restart the server whenever it dies, until cancelled or stopped; returns at once for a guest.

        Pauses between restarts grow to 30 s. Never gives up: the sessions' callers have their own deadlines.
        """
        pause, longest = RESTART_PAUSE_S
        started = checked = time.monotonic()
        while self.owner and not self._stopped and self._site is not None:
            process, now = self._process, time.monotonic()
            if process is not None and process.poll() is None:
                if now - checked > LOG_CHECK_S:
                    checked = now
                    await asyncio.to_thread(bound_log, self._site)
                await asyncio.sleep(0.1)
                continue
            if now - started > STEADY_S:
                pause = RESTART_PAUSE_S[0]
            code = "nothing" if process is None else process.returncode
            logger.error("embedded PostgreSQL ended with {}; restarting it: {}", code, log_tail(self._site))
            await asyncio.sleep(pause)
            if self._stopped:
                return
            pause = min(2 * pause, longest)
            started = time.monotonic()
            try:
                await self._bring_up(self._site)
            except (EmbeddedPostgresError, OSError) as error:
                if not self._stopped:
                    logger.error("embedded PostgreSQL is still down: {}", error)
            else:
                logger.warning("embedded PostgreSQL is back after {:.1f} s", time.monotonic() - started)

    def _dsn(self, database: str, user: str) -> str:
        if self._sockets is None:
            raise EmbeddedPostgresError(f"the embedded PostgreSQL in {self._data_dir} is not started yet")
        # The port is named so that PGPORT in the environment cannot point the client elsewhere.
        parts = {"host": self._sockets, "port": PORT, "user": user}
        return f"postgresql:///{quote(database)}?" + urlencode(parts, safe="/", quote_via=quote)

    def _survey(self) -> Site:
        binaries = installed_binaries()
        account = choose_account([self._data_dir / f"pg{binaries.major}", self._data_dir])
        prepare_data_dir(self._data_dir, account)
        return Site(data_dir=self._data_dir, account=account, binaries=binaries)

    def _claim(self, site: Site) -> bool:
        """Take the lock, or answer False. Closed on exec, so that it is never the server that holds it."""
        lock = open_private(site.data_dir / "postgres.lock", os.O_RDWR, site.account)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return True

    def _taken(self, site: Site) -> str:
        holder = (site.data_dir / "postgres.lock").read_text().strip() or "unknown"
        return f"the embedded PostgreSQL in {site.data_dir} is owned by process {holder}"

    async def _visit(self, site: Site) -> bool:
        """Try the owner's server as a guest; a database that is missing is being created by the owner right now."""
        self._sockets = socket_dir(site)
        return self._sockets is not None and await probe(self.dsn) is Answer.READY

    async def _first_start(self, site: Site) -> None:
        check_cluster(site)
        binaries = await asyncio.to_thread(reachable_binaries, site.binaries, site.data_dir, site.account)
        self._site = Site(data_dir=site.data_dir, account=site.account, binaries=binaries)
        self._sockets = make_socket_dir(site)
        await create_cluster(self._site)
        await self._bring_up(self._site)

    async def _bring_up(self, site: Site) -> None:
        """Start the server on what the last one left, and return when it takes connections."""
        await asyncio.to_thread(bound_log, site)
        await self._old_server_gone(site)
        sockets = make_socket_dir(site)
        clear_stale_locks(site, sockets)
        self._sockets, self._process = sockets, spawn_server(site, sockets)
        await self._ready(site, self._process)

    async def _old_server_gone(self, site: Site) -> None:
        """Wait for the last owner's server, which is shutting down, and for the backends of a killed postmaster.

        They hold the shared memory, and end by themselves. We hold the lock, so that no new one can come.
        """
        started = time.monotonic()
        while pids := servers_of(site):
            if self._stopped or time.monotonic() - started > OLD_SERVER_PATIENCE_S:
                raise EmbeddedPostgresError(
                    f"processes {pids} of another PostgreSQL still use {site.cluster}; end them: kill -INT {min(pids)}"
                )
            await asyncio.sleep(0.02)
        if self._stopped:  # the lock is no longer ours; from here to the spawn nothing awaits
            raise EmbeddedPostgresError(f"stopped before the server in {site.cluster} was started")

    async def _ready(self, site: Site, process: subprocess.Popen[bytes]) -> None:
        started = told = time.monotonic()
        while (answer := await probe(self.dsn)) is not Answer.READY:
            if process.poll() is not None:
                raise EmbeddedPostgresError(
                    f"PostgreSQL ended with {process.returncode} while starting in {site.cluster}: {log_tail(site)}"
                )
            now = time.monotonic()
            if answer is Answer.DATABASE_MISSING:
                await self._create_database()
            elif answer is Answer.DOWN and now - started > SILENT_START_PATIENCE_S:
                raise EmbeddedPostgresError(f"PostgreSQL in {site.cluster} does not answer: {log_tail(site)}")
            elif now - told > 10:
                told = now
                logger.warning("embedded PostgreSQL has been starting for {:.0f} s: {}", now - started, log_tail(site))
            await asyncio.sleep(0.005)

    async def _create_database(self) -> None:
        """Create what is missing of the role, no superuser, and its database: also what a kill has cut short."""
        role, database = (name.replace('"', '""') for name in (self._user, self._database))
        try:
            connection = await asyncpg.connect(self._dsn("postgres", "postgres"), timeout=5)
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", self._user):
                    await connection.execute(f'CREATE ROLE "{role}" LOGIN')
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self._database):
                    await connection.execute(f'CREATE DATABASE "{database}" OWNER "{role}"')
            finally:
                connection.terminate()
        except (asyncpg.PostgresError, *CUT_SHORT) as error:
            raise EmbeddedPostgresError(f"cannot create the database {self._database!r}: {error}") from error
