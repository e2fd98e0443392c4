"""The build of the native library: what a user's compiler and flags may be, and that none of it fails an install or changes arithmetic."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rotary._native import build

VARIABLES = ("CXX", "CC", "CFLAGS", "CXXFLAGS", "LDFLAGS", "ARCHFLAGS")
SMALL = """
extern "C" __attribute__((visibility("default"))) float rotary_sum(float a, float b) { return (a + b) - b; }
#ifdef FAIL
#error FAIL was defined
#endif
#ifdef __FAST_MATH__
#error fast math is on
#endif
"""
EACH = """
#define NAME_(set) rotary_##set
#define NAME(set) NAME_(set)
extern "C" __attribute__((visibility("default"))) int NAME(ROTARY_SET)() {
#ifdef __AVX2__
  return 2;
#else
  return 1;
#endif
}
"""
# Prints what half of the smallest normal double is to Python after the library was loaded, and what the library makes of 1 + 1e8 - 1e8.
LOAD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.rotary_sum.restype, library.rotary_sum.argtypes = ctypes.c_float, (ctypes.c_float, ctypes.c_float)
print(float("2.2250738585072014e-308") / 2 != 0, library.rotary_sum(1, 1e8))
"""
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler is installed"
)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of a few lines in place of the library's, and none of this environment's variables."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "small.cpp").write_text(SMALL)
    (folder / "each.cpp").write_text(EACH)
    monkeypatch.setattr(build, "FOLDER", folder)
    monkeypatch.setattr(build, "ONCE", ("small.cpp",))
    monkeypatch.setattr(build, "EACH", ("each.cpp",))
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / build.LIBRARY


def script(path: Path, body: str) -> str:
    """A program in place of a compiler."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def loaded(library: Path) -> str:
    """The output of LOAD in another process: flushing, once it is on, stays on in the thread that loaded the library."""
    run = subprocess.run((sys.executable, "-c", LOAD, str(library)), capture_output=True, text=True, check=True)
    return run.stdout.strip()


@needs_compiler
@pytest.mark.parametrize("variable", ["CFLAGS", "CXXFLAGS", "LDFLAGS"])
@pytest.mark.parametrize(
    "flags",
    [
        "",
        "-O2 -g",
        "-Ofast",
        "-ffast-math",
        "-funsafe-math-optimizations",
        "-O2 -fassociative-math -fno-signed-zeros -freciprocal-math -ffinite-math-only",
        "-Ofast -ffast-math -funsafe-math-optimizations",
        "-mdaz-ftz -fapprox-func -ffp-model=fast -fdenormal-fp-math=preserve-sign -mrecip=all",
        "-ffp-contract=fast",
    ],
)
def test_no_flag_changes_arithmetic(library: Path, monkeypatch: pytest.MonkeyPatch, variable: str, flags: str):
    monkeypatch.setenv(variable, flags)
    assert build.build(library) is None
    assert loaded(library) == "True 0.0"


@needs_compiler
def test_a_flag_that_is_left_out_is_named(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CFLAGS", "-g -Ofast -DKEPT -mfpmath=387")
    assert build.build(library) is None
    note, command = capsys.readouterr().out.splitlines()[:2]
    assert note == "rotary: left out of $CFLAGS, since they change results: -Ofast -mfpmath=387"
    assert " -g -O3 -DKEPT -fno-fast-math " in command


@needs_compiler
def test_fast_math_hidden_in_the_compiler_is_found(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A wrapper adds it behind our flags, where no list of flags can see it."""
    compiler = shutil.which("g++") or pytest.skip("only g++ is known to link crtfastmath.o")
    monkeypatch.setenv("CXX", script(tmp_path / "c++", f'exec {compiler} "$@" -Ofast'))
    reason = build.build(library)
    if reason is None:  # gcc 13 and later link it into programs alone
        assert loaded(library).startswith("True")
    else:
        assert "flushes denormal numbers to zero" in reason
        assert not library.exists()


@needs_compiler
def test_fast_math_in_the_compilers_own_variable_is_left_out(library: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "c++ -Ofast" if shutil.which("c++") else "g++ -Ofast")
    assert build.build(library) is None
    assert loaded(library) == "True 0.0"


@pytest.mark.parametrize("variable", ["CXX", "CC", "CFLAGS", "CXXFLAGS", "LDFLAGS"])
@pytest.mark.parametrize("value", ['"', "-DA='b", "a\\"])
def test_quotes_that_do_not_close_are_a_reason(
    library: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    if variable not in ("CXX", "CC"):
        monkeypatch.setenv("CXX", "c++")
    monkeypatch.setenv(variable, value)
    reason = build.build(library)
    assert reason is not None
    assert f"${variable} cannot be read" in reason and value in reason
    assert not library.exists()


@needs_compiler
@pytest.mark.parametrize("blank", ["", " ", "\t \n"])
def test_blank_variables_are_no_choice(library: Path, monkeypatch: pytest.MonkeyPatch, blank: str):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, blank)
    assert build.build(library) is None
    assert ctypes.CDLL(str(library)).rotary_sum


@needs_compiler
def test_quoted_flags_and_a_compiler_with_arguments(library: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", f"{shutil.which('c++') or 'g++'} -DFIRST='a b'")
    monkeypatch.setenv("CFLAGS", '-DSECOND=\'"x y"\' -DTHIRD="1 + 2"')
    assert build.build(library) is None


@needs_compiler
def test_the_first_error_is_the_reason(library: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CFLAGS", "-DFAIL")
    reason = build.build(library)
    assert reason is not None
    assert "FAIL was defined" in reason and "failed" in reason
    assert reason.isascii() and "\n" not in reason and len(reason) <= 400


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (r"printf '\377\376 error: na\357ve \342\200\230x\342\200\231\n' >&2; exit 1", "error: na?ve ?x?"),
        (r"printf '\377\n\000\n' >&2; exit 1", "failed: ?"),
        ("exit 3", "exit status 3"),
        ("exit 0", "exit status 0, and no file"),
        ("kill -9 $$", "exit status -9"),
        ("cat; exit 1", "exit status 1"),
        ("test -t 0 || test -z \"$(cat)\" && echo 'error: no input' >&2; exit 1", "error: no input"),
        ("i=0; while [ $i -lt 2000 ]; do printf 'error '; i=$((i+1)); done >&2; exit 1", "error error"),
    ],
)
def test_whatever_a_compiler_says_is_a_reason(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, expected: str
):
    monkeypatch.setenv("CXX", script(tmp_path / "c++", body))
    reason = build.build(library)
    assert reason is not None
    assert expected in reason and str(tmp_path / "c++") in reason
    assert reason.isascii() and "\n" not in reason and len(reason) <= 400


@pytest.mark.parametrize("compiler", ["/nonexistent/c++", "/", "no-such-compiler-anywhere -O2", "c\udcff++"])
def test_a_compiler_that_cannot_run_is_a_reason(library: Path, monkeypatch: pytest.MonkeyPatch, compiler: str):
    monkeypatch.setenv("CXX", compiler)
    reason = build.build(library)
    assert reason is not None
    assert compiler.split()[0].encode("ascii", "replace").decode() in reason


def test_a_compiler_that_does_not_end_is_a_reason(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "SECONDS", 0.2)
    monkeypatch.setenv("CXX", script(tmp_path / "c++", "exec sleep 60"))
    reason = build.build(library)
    assert reason is not None
    assert "did not end within 0.2 seconds" in reason


def test_no_compiler_at_all_is_a_reason(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = build.build(library)
    assert reason is not None
    assert "no C++ compiler was found" in reason


def test_a_source_or_a_folder_that_is_not_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "c++")
    assert build.build(tmp_path / "none" / build.LIBRARY) is not None
    monkeypatch.setattr(build, "ONCE", ("none.cpp",))
    reason = build.build(tmp_path / build.LIBRARY)
    assert reason is not None
    assert "none.cpp" in reason


def test_what_is_left_of_a_failed_build_is_removed(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", script(tmp_path / "c++", f"echo half > {library}; exit 1"))
    assert build.build(library) is not None
    assert not library.exists()


def test_flags_of_macos_follow_the_variable(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(build.sys, "platform", "darwin")
    monkeypatch.setenv("CXX", script(tmp_path / "c++", "exit 1"))
    monkeypatch.setenv("ARCHFLAGS", "-arch arm64")
    assert build.build(library) is not None
    commands = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path / "c++") in line]
    assert len(commands) == 3 and all(" -arch arm64 " in command for command in commands)
    monkeypatch.setenv("ARCHFLAGS", '"')
    reason = build.build(library)
    assert reason is not None
    assert "$ARCHFLAGS cannot be read" in reason


needs_sets = pytest.mark.skipif(not build.instruction_sets(), reason="no instruction sets beside the baseline here")


@needs_compiler
@needs_sets
def test_every_instruction_set_is_compiled_with_its_own_flags(library: Path):
    assert build.build(library) is None
    result = ctypes.CDLL(str(library))
    assert result.rotary_baseline() == 1
    assert all(getattr(result, f"rotary_{name}")() == 2 for name in build.instruction_sets())


@needs_compiler
@needs_sets
def test_a_compiler_without_an_instruction_set_builds_the_baseline_and_says_so(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiler = shutil.which("c++") or shutil.which("g++")
    refuse = f'case "$*" in *-mavx512*) echo \'error: what is AVX-512?\' >&2; exit 1;; esac; exec {compiler} "$@"'
    monkeypatch.setenv("CXX", script(tmp_path / "c++", refuse))
    reason = build.build(library)
    assert reason is not None and library.exists()
    assert (
        reason.startswith(f"built without {' and '.join(build.instruction_sets())}: ") and "what is AVX-512?" in reason
    )
    result = ctypes.CDLL(str(library))
    assert result.rotary_baseline() == 1
    assert not hasattr(result, "rotary_avx2")


def test_every_file_counts_in_the_number_of_the_sources(tmp_path: Path):
    assert build.source_number(tmp_path) is None
    numbers = set()
    for name, text in (("a.cpp", ""), ("b.h", ""), ("b.h", "int"), ("a.cpp", "int"), ("c.h", "")):
        (tmp_path / name).write_text(text)
        numbers.add(build.source_number(tmp_path))
    assert len(numbers) == 5
    (tmp_path / "build.py").write_text("")
    assert build.source_number(tmp_path) in numbers
