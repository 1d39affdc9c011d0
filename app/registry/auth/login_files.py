"""Files that logins are read from: regular ones only, opened without waiting, never more of them than a login needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def lies_in(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is below one of some folders, as it is written: nothing is looked up."""
    written = PurePosixPath(os.path.normpath(path))
    return written.is_absolute() and any(PurePosixPath(os.path.normpath(one)) in written.parents for one in folders)


def read_login_file(path: str, *, limit: int, folders: Iterable[str] | None = None) -> bytes:
    """Read a file; it blocks, so call it in a thread. Raise `OSError` or `ValueError` where it can't be used.

    What links lead to has to lie in the folders too. A FIFO has no end, and a device may do anything: neither is read.
    """
    real = os.path.realpath(path)
    if folders is not None and not lies_in(real, (os.path.realpath(folder) for folder in folders)):
        raise ValueError("not in an allowed folder")
    if not stat.S_ISREG(Path(real).stat().st_mode):
        raise ValueError("no regular file")
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 — it is open already
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no regular file")
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError("too long")
    return raw
