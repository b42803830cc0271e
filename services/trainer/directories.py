"""Directories that appear whole: written beside their place, flushed, hashed, and renamed into it."""

import hashlib
import os
import shutil
from pathlib import Path


def publish(partial: Path, target: Path) -> None:
    """Makes a finished directory appear under its name: everything is on the disk before the rename, and the rename before this returns."""
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _sync(target.parent)


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
