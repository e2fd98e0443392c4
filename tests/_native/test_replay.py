"""The cases that another processor replays, on this one; and that a wrong bit in them is noticed."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import sys
from pathlib import Path

import pytest

from rotary._native import library

spec = importlib.util.spec_from_file_location("replay", Path(__file__).with_name("replay.py"))
assert spec is not None and spec.loader is not None
replay = importlib.util.module_from_spec(spec)
spec.loader.exec_module(replay)

pytestmark = pytest.mark.skipif(
    isinstance(library.load(), str) or shutil.which("c++") is None or sys.platform != "linux",
    reason="no native library to link a program with",
)


def test_every_bit_is_the_formulas_and_a_wrong_one_is_noticed(tmp_path: Path):
    some = list(itertools.islice(replay.cases(), 0, None, 25))
    done = replay.replay(library.LIBRARY.resolve(), tmp_path, some)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{len(some)} cases, ") and done.stdout.endswith(": 0 wrong\n")
    wrong = bytearray(some[0])
    wrong[-1] ^= 1  # of sin, which nothing may write
    done = replay.replay(library.LIBRARY.resolve(), tmp_path, [bytes(wrong)])
    assert done.returncode == 1 and "1 differ" in done.stdout


def test_programs_that_are_missing_are_named():
    assert replay.missing("no-such-compiler-anywhere") == "no-such-compiler-anywhere"
    assert replay.missing("sh") is None
