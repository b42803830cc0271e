"""The system account that Postgres runs under, and which folders it can enter.

Postgres refuses to run as root. Where we are root, it runs as `postgres` or `nobody`, and its binaries and data must
lie where that account gets to: no folder of the user's is opened up for it; what lies behind a closed door is put under
`/var/lib/cacherl` instead.
"""

import hashlib
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from cacherl.errors import UsageError

CANDIDATES = ("postgres", "nobody")
ELSEWHERE = Path("/var/lib/cacherl")


@dataclass(frozen=True, slots=True)
class Account:
    """A user id, its main group, and whether we must change to it."""

    uid: int
    gid: int
    other: bool

    def own(self, path: Path) -> None:
        """Gives a path to this account where it is not ours already."""
        if self.other:
            os.chown(path, self.uid, self.gid)


def find_account() -> Account:
    """Ours, or an unprivileged one where we are root; UsageError where there is none that Postgres accepts."""
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise UsageError(
                f"Postgres needs an entry in /etc/passwd for the user id {os.geteuid()}: add one, or run as another user."
            ) from None
        return Account(os.geteuid(), os.getegid(), other=False)
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, other=True)
    raise UsageError("Postgres does not run as root, and there is no user `postgres` or `nobody`: run as an ordinary user.")


def can_enter(path: Path, account: Account) -> bool:
    """Whether the account may pass through `path` and every folder above it."""
    if not account.other:
        return True
    for folder in (path, *path.parents):
        status = folder.stat()
        bit = stat.S_IXUSR if status.st_uid == account.uid else stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH
        if not status.st_mode & bit:
            return False
    return True


def place_for(home: Path, account: Account) -> Path:
    """Where the account keeps what belongs to `home`: in it, or beside it under /var/lib/cacherl when `home` is closed to the account."""
    if can_enter(home, account):
        return home
    return ELSEWHERE / hashlib.sha256(str(home).encode()).hexdigest()[:12]


def reachable_copy(folder: Path, account: Account) -> Path:
    """`folder`, or a copy of it where the account can enter; the copy is made once and published by a rename."""
    if can_enter(folder, account):
        return folder
    target = ELSEWHERE / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if not target.is_dir():
        ELSEWHERE.mkdir(parents=True, exist_ok=True, mode=0o755)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(folder, partial, symlinks=True)
        try:
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial)
            if not target.is_dir():
                raise
    return target
