"""A lock on an open file, held by this process until it ends, however it ends."""

from __future__ import annotations

import sys
from typing import IO

__all__ = ["try_lock"]

if sys.platform == "win32":  # pragma: no cover

    def try_lock(file: IO[str]) -> bool:
        """Take the lock; False if another process has it."""
        import msvcrt

        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def try_lock(file: IO[str]) -> bool:
        """Take the lock; False if another process has it."""
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
