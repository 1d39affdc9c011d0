"""A folder for the time of one program, which the next program deletes where a kill has left it behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEAST_AGE_SECONDS = 60.0
"""A younger folder may be one that its program has made and not locked yet."""


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Create a folder, delete it at the end, and delete those of the same prefix that no program has any more.

    Its program, and the processes forked from it, have a lock on the folder (flock(2)): the kernel lets go of it with
    the last of them, however they end.
    """
    with tempfile.TemporaryDirectory(prefix=prefix) as made:
        folder = Path(made)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for sibling in folder.parent.glob(f"{prefix}*"):
                with suppress(OSError):  # another user's, or another program deletes it just now
                    _delete_if_abandoned(sibling)
            yield folder
        finally:
            os.close(handle)


def _delete_if_abandoned(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(handle)
        if found.st_uid == os.getuid() and time.time() - found.st_mtime > LEAST_AGE_SECONDS:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(handle)
