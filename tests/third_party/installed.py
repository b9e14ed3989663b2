"""Installs a stranger's distribution as a user would, with pip, into a directory of its own.

``install(target)`` can be used by every suite: put the directory on ``sys.path``, or on PYTHONPATH of another process,
and its entry points are found there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ACME = Path(__file__).parent / "acme-callgram"


def install(target: Path, source: Path = ACME) -> Path:
    """Install the distribution at ``source`` into ``target`` and answer ``target``. The source tree is left untouched."""
    copy = target.with_name(f"{target.name}-source")
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    given = ["--no-build-isolation"] if _can_build() else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", *given, "--target", str(target), str(copy)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"pip could not install {source.name}: {done.stderr[-2000:]}")
    return target


def _can_build() -> bool:
    """Whether this environment can build a wheel without a network: setuptools learnt it alone in 70.1."""
    if importlib.util.find_spec("setuptools") is None:
        return False
    major, minor = (int(part) for part in version("setuptools").split(".")[:2])
    return (major, minor) >= (70, 1) or importlib.util.find_spec("wheel") is not None
