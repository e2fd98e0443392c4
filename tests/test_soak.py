"""The short form of `make soak`: some seconds of many threads on shared modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.soak import soak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_threads_agree_for_some_seconds():
    rotations, mismatches, _ = soak(4.0, threads=4)
    assert rotations > 100 and mismatches == 0
