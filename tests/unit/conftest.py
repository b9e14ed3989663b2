"""The third-party distribution, installed once for a run of the suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..third_party.installed import install


@pytest.fixture(scope="session")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory in which ``acme-callgram`` is installed; on ``sys.path`` while the suite runs."""
    directory = install(tmp_path_factory.mktemp("third_party") / "site")
    sys.path.insert(0, str(directory))
    yield directory
    sys.path.remove(str(directory))
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_callgram"]:
        del sys.modules[name]
