"""What the C library does with memory that torch frees."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["give_back", "kept_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc takes, and twice that: where its own adjusting ends in a process that once
# freed a block of this size.
_MMAP_THRESHOLD = 32 << 20
_TRIM_THRESHOLD = 2 * _MMAP_THRESHOLD


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have glibc keep freed memory, within, instead of giving it back after every step.

    A batch frees its activations, gigabytes in training, and the next one needs as many; by
    default the kernel takes the pages back and clears each anew: 437,913 page faults a training
    step, a quarter of its CPU time, and 8 % of encoding. No effect with another C library.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        libc.malloc_trim(0)


def give_back() -> None:
    """Give freed memory back to the system, wherever in the heap it lies.

    glibc gives back only what lies at the end of a heap, and threads have heaps of their own: with
    eight readers and two writers 120 MB of 1,260 were free and kept. No effect with another C
    library.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # musl
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
