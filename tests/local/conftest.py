"""A home for the tests of a module, one after the other, and a look at what still runs on it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="crl-home-")).resolve()
    # pytest's own folders are closed to other accounts; this one lets Postgres' pass through.
    folder.chmod(0o711)
    yield folder
    assert running_in(folder) == []
    shutil.rmtree(folder)


def running_in(home: Path) -> list[int]:
    """Every living process that works in or was told of this home."""
    found = []
    for process in psutil.process_iter():
        try:
            told = str(home) in " ".join(process.cmdline()) or process.environ().get("CACHERL_SHARED_ROOT", "").startswith(str(home))
            if (told or process.cwd().startswith(str(home))) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
