"""Who runs the embedded PostgreSQL, and which directories that account can reach.

PostgreSQL refuses to run as root, so root hands it to an account that exists already. Reads the password database and
the modes of directories; makes directories for the account. Refuses to create accounts, and to change the mode of a
directory that it did not make: a closed one is named in the error instead.
"""

import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run; the text says what, where, and what to do."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The account of the server's processes and files; ours, unless we are root."""

    uid: int
    gid: int
    name: str


def choose_account(owned: Iterable[Path]) -> Account:
    """Answer our own account; as root the owner of the first of ``owned`` that is not root's, or postgres, or nobody.

    The cluster goes first in ``owned``: it keeps its account when a ``postgres`` user is installed later.
    """
    if os.geteuid() != 0:
        return _account(_entry_of(os.geteuid()))
    owners = [path.stat().st_uid for path in owned if path.exists()]
    entries = [_entry_of(uid) for uid in owners if uid != 0] + [_entry_named("postgres"), _entry_named("nobody")]
    for entry in entries:
        if isinstance(entry, pwd.struct_passwd) and entry.pw_uid != 0:
            return _account(entry)
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as; "
        "run callgram as an ordinary user, or give the data directory to one"
    )


def _entry_of(uid: int) -> pwd.struct_passwd | int:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return uid


def _entry_named(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _account(entry: pwd.struct_passwd | int) -> Account:
    if isinstance(entry, int):  # a container started with --user and no such user in its image
        return Account(uid=entry, gid=os.getegid(), name=str(entry))
    return Account(uid=entry.pw_uid, gid=entry.pw_gid, name=entry.pw_name)


def first_closed(path: Path, account: Account) -> Path | None:
    """Answer the outermost step on the way to ``path``, itself included, that ``account`` cannot pass, or ``None``.

    A file at the end must be executable. For another account only owner, group and mode are judged, not ACLs.
    """
    for step in (*reversed(path.parents), path):
        if os.geteuid() == account.uid:
            passable = os.access(step, os.X_OK)
        else:
            info = step.stat()
            bit = stat.S_IXOTH
            if info.st_uid == account.uid:
                bit = stat.S_IXUSR
            elif info.st_gid == account.gid:
                bit = stat.S_IXGRP
            passable = bool(info.st_mode & bit)
        if not passable:
            return step
    return None


def prepare_data_dir(data_dir: Path, account: Account) -> None:
    """Make ``data_dir`` where it is missing, so that ``account`` and nobody else can pass through it.

    Ours alone (0700), or as root open to the account's group for passing only (0710). A closed but empty directory of
    root counts as made by us: ``mktemp -d`` leaves one, and so does a kill between our own mkdir and chmod.
    """
    missing = [parent for parent in data_dir.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        if os.geteuid() == 0:
            parent.chmod(0o755)  # root's umask may be 077, and the account has to pass
    data_dir.mkdir(mode=0o700, exist_ok=True)
    closed = first_closed(data_dir, account)
    if closed == data_dir and os.geteuid() == data_dir.stat().st_uid == 0 and not any(data_dir.iterdir()):
        os.chown(data_dir, -1, account.gid)
        data_dir.chmod(0o710)
        closed = None
    if closed is not None:
        raise EmbeddedPostgresError(
            f"user {account.name}, who has to run PostgreSQL, cannot pass through {closed} on the way to {data_dir}; "
            f"choose another data directory by CALLGRAM_DATA_DIR, or open this one to {account.name}"
        )
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise EmbeddedPostgresError(
            f"{data_dir} is not writable for us; run callgram as the user who owns it, "
            "or choose another data directory by CALLGRAM_DATA_DIR"
        )


def give(path: Path, account: Account) -> None:
    """Hand ``path`` to ``account`` where we are root; a symbolic link is not followed."""
    if os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def private_dir(path: Path, account: Account) -> Path:
    """Make ``path`` a 0700 directory of ``account``, or raise: what lies there already may be somebody's trap."""
    if not os.path.lexists(path):
        path.mkdir(mode=0o700)
    if path.lstat().st_uid == os.geteuid():  # new, or root was killed before it could hand it over
        give(path, account)
    if not is_private(path, account):
        raise EmbeddedPostgresError(f"{path} must be a directory of {account.name} with mode 0700; remove it")
    return path


def is_private(path: Path, account: Account) -> bool:
    """Answer whether ``path`` is a directory that only ``account`` can enter, and not a link to one."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == account.uid and not info.st_mode & 0o077


def open_private(path: Path, flags: int, account: Account) -> int:
    """Open ``path``, made with mode 0600 for ``account``; answer the descriptor, closed on exec. Refuses links."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        os.fchown(descriptor, account.uid, account.gid)
    return descriptor
