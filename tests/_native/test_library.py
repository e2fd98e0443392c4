"""Loading the native library: a file that was cut off or that would change the process's arithmetic is refused before it does harm."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from rotary._native import library
from support import warm

needs_library = pytest.mark.skipif(not library.LIBRARY.exists(), reason="no native library was built here")
# Loads the file that the first argument names as the library does; prints what came and whether denormal numbers are left.
LOAD = """
import sys
from pathlib import Path
from rotary._native import library
library.LIBRARY = Path(sys.argv[1])
library.SOURCES = library.LIBRARY.parent
found = library.load()
print(found if isinstance(found, str) else "loaded", "|", float("2.2250738585072014e-308") / 2 != 0)
"""
FLUSHES = """
#include <xmmintrin.h>
__attribute__((constructor)) static void flush() { _mm_setcsr(_mm_getcsr() | 0x8040); }
extern "C" long long rotary_source() { return 0; }
"""


def loaded(file: Path) -> str:
    run = warm.run("-c", LOAD, file)
    assert run.returncode == 0, f"status {run.returncode}: {run.stderr}"
    return run.stdout.strip()


@needs_library
def test_a_library_that_is_cut_off_is_not_loaded(tmp_path: Path):
    """Without the check the process dies of SIGBUS at some lengths, where a table of the file is read."""
    whole, file = library.LIBRARY.read_bytes(), tmp_path / "librotary.so"
    for size in (len(whole) - 1, len(whole) // 2, 4096, 64):
        file.write_bytes(whole[:size])
        assert f"is cut off: {size} of {len(whole)} bytes" in loaded(file)
    file.write_bytes(whole)
    assert loaded(file) == "loaded | True"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no library at all", b"\x7fELF\x02\x01" + bytes(58)])
def test_what_is_no_library_is_a_reason(content: bytes, tmp_path: Path):
    file = tmp_path / "librotary.so"
    file.write_bytes(content)
    assert loaded(file).startswith("the native library does not load")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("c++") is None, reason="start-up code in x86-64's own words"
)
def test_a_library_that_flushes_denormal_numbers_is_refused_and_undone(tmp_path: Path):
    source, file = tmp_path / "flushes.cpp", tmp_path / "librotary.so"
    source.write_text(FLUSHES)
    subprocess.run(("c++", "-shared", "-fPIC", str(source), "-o", str(file)), check=True)
    result = loaded(file)
    assert "flush denormal numbers to zero" in result and result.endswith("| True")
