"""``callgram serve`` as a process in a directory of its own: started, stopped and killed as often as a test wants."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def until(condition: Callable[[], Result], what: str, deadline_s: float = 20.0) -> Result:
    """The first true answer of ``condition``; asks until then, and fails past the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(0.01)
    return answer


def new_base() -> Path:
    """A new directory, not below pytest's own: as root those are closed to the account that PostgreSQL runs as."""
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="cg-")))
    base.chmod(0o755)
    return base


def users(base: Path) -> list[str]:
    """The command lines of all live processes that name the directory, or run in it; a zombie has none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if str(base).encode() in line or os.readlink(entry / "cwd").startswith(str(base)):
                found.append(f"{entry.name} {line!r}")
    return found


class Serve:
    """``url`` is where it listens, or listened last. Its data and its log stay from start to start."""

    def __init__(self, plugins: str, **environment: str) -> None:
        self.base = new_base()
        self.work, self.data, self.log_file = self.base / "work", self.base / "data", self.base / "log"
        self.work.mkdir()
        self.log_file.touch()
        (self.work / "plugins.toml").write_text(plugins)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALLGRAM_")}
        told = {"CALLGRAM_DATA_DIR": str(self.data), "CALLGRAM_PORT": "0"}
        self.environment = inherited | told | environment
        self.process: subprocess.Popen[bytes] | None = None
        self.url, self._told = "", 0

    def start(self, *options: str, wait: bool = True) -> None:
        """Returns when it listens. Fails with its log if it ends before."""
        assert self.process is None, "it runs already"
        self._told = self.log_file.stat().st_size
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "callgram", "serve", *options],
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        if wait:
            self.until_listening()

    def until_listening(self) -> None:
        def listening() -> list[str]:
            assert self.process is not None
            said = self.log_file.read_bytes()[self._told :].decode()
            assert self.process.poll() is None, f"serve ended with {self.process.poll()}: {said}"
            return re.findall(r"callgram serves \d+ enterprises at (\S+)", said)

        self.url = until(listening, "serve listens", 60)[-1]

    def stop(self, deadline_s: float = 20.0) -> int:
        """SIGTERM; answers the exit code once it has ended."""
        process = self._gone()
        process.send_signal(signal.SIGTERM)
        return process.wait(deadline_s)

    def kill(self) -> None:
        """What a power cut or the OOM killer leaves behind."""
        process = self._gone()
        process.kill()
        process.wait()

    def _gone(self) -> subprocess.Popen[bytes]:
        process, self.process = self.process, None
        assert process is not None, "it does not run"
        return process

    def remove(self) -> None:
        """End it, whatever became of it, and leave nothing in the file system."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.base, ignore_errors=True)

    @property
    def log(self) -> str:
        return self.log_file.read_text()
