"""Turns itself into a program that dies with its parent: ``launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM ARG...``.

Run as a script with ``python -I -S`` by :func:`callgram_postgres.cluster.spawn`; reads its arguments, writes nothing.
A process of its own and not a ``preexec_fn``: that runs Python between fork and exec, which the subprocess manual calls
unsafe where there are threads, warns from Python 3.12 on, and gives up vfork. It costs about 15 ms.

Refuses to go on when its parent has ended already: nobody would ever stop the program.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, death_signal: int, uid: int, gid: int, program: list[str]) -> None:
    """Drop root, arm the death signal, become ``program``. Returns only by an exception or ``SystemExit``.

    The order is the point: the kernel clears the death signal when credentials change (prctl(2)), so it comes after
    them; and a parent that ended before it was armed is seen only by asking for the parent afterwards.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # nohup and a shell's "&" ignore SIGINT, exec inherits that, and the death signal would be lost on the way up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit(f"launch: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("launch: the parent has ended")
    os.umask(0o077)
    os.execv(program[0], program)  # noqa: S606 - the program is our own PostgreSQL, and no shell is wanted


if __name__ == "__main__":
    parent_id, signal_number, user_id, group_id = map(int, sys.argv[1:5])
    main(parent_id, signal_number, user_id, group_id, sys.argv[5:])
