"""What is freed goes back to the system when it is asked to."""

import sys
from pathlib import Path

import pytest

from lancedb_ft.memory import give_back


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_between_what_is_kept_is_given_back():
    blocks = [bytes(2_000) for _ in range(100_000)]
    kept = blocks[::100]  # each holds a part of the heap where it is
    del blocks
    before = resident_mb()
    give_back()
    if resident_mb() == before:
        pytest.skip("another C library")
    assert before - resident_mb() > 50
    assert len(kept) == 1_000
