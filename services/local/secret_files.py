"""The secrets of a home: random, made once, one file each.

Files have mode 0600 in a folder of mode 0700. Processes are given paths, not values.
"""

import os
import secrets
from pathlib import Path


class SecretFiles:
    """The folder `<home>/secrets`."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "secrets"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def path(self, name: str) -> Path:
        """Where a secret lies."""
        return self.folder / name

    def read(self, name: str) -> str | None:
        """A secret, or None where there is none."""
        try:
            return self.path(name).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def write(self, name: str, value: str) -> Path:
        """Replaces a secret by rename; nobody else can read it at any moment."""
        write_private(self.path(name), value)
        return self.path(name)

    def ensure(self, name: str) -> str:
        """The secret of this name, made on first use: 256 random bits."""
        value = self.read(name)
        if value is None:
            value = secrets.token_hex(32)
            self.write(name, value)
        return value


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.rename(path)
