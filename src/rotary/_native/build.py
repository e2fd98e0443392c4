"""Compiles the C++ sources of this folder into one plain shared library. Runs when the package is installed; imports nothing of rotary.

The library links neither Python nor torch, so one wheel per platform (py3-none-<platform>) serves every Python and every torch.
CXX, CC, CXXFLAGS, CFLAGS and LDFLAGS are respected, except flags that change arithmetic (fast math), which are left out with a note.
Where the library cannot be built the install succeeds all the same, the reason is written to build.txt, which `rotary info` shows, and
rotary computes by plain torch operations.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

SOURCE = Path(__file__).with_name("rotate.cpp")
LIBRARY = "librotary.so"
REPORT = "build.txt"
SECONDS = 600
"""How long one compiler may take."""

# -ffp-contract=off is a promise about bits (docs: prefill = decode, native = plain torch), so it comes last and wins.
PLAIN = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-trapping-math",
]
BITS = ["-fno-fast-math", "-ffp-contract=off"]
# One body for several instruction sets, chosen when the library is loaded; whole 512-bit vectors, which took bfloat16 from
# 7.9 to 8.8 numbers per nanosecond and thread on a Zen 5 and changed nothing that could be measured elsewhere.
CLONES = ["-DROTARY_CLONES", "-mprefer-vector-width=512"]

# Flags of a user that are left out. -fno-fast-math behind them is not enough: up to gcc 12 -Ofast or -funsafe-math-optimizations links
# crtfastmath.o even so, whose constructor makes the thread that loads the library flush denormal numbers to zero in whatever it computes
# from then on; and constants in single precision, other units and modes for denormal numbers are no part of fast math.
FAST = {
    "-Ofast",
    "-ffast-math",
    "-funsafe-math-optimizations",
    "-fassociative-math",
    "-freciprocal-math",
    "-ffinite-math-only",
    "-fno-honor-infinities",
    "-fno-honor-nans",
    "-fno-signed-zeros",
    "-fapprox-func",
    "-fsingle-precision-constant",
    "-mdaz-ftz",
    "-ffp-model=fast",
    "-ffp-model=aggressive",
    "-fp-model=fast",
}
FAST_STARTS = ("-fdenormal-fp-math", "-mfpmath=", "-mrecip")
# Prints nothing; exit status 86 where a denormal number is lost once the library is loaded.
DENORMAL = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); sys.exit(86 if float('5e-310') / 2 == 0 else 0)"


def words(variable: str) -> list[str]:
    """What a variable of the environment holds, split as a shell splits it. ValueError names the variable that cannot be split."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"${variable} cannot be read: {error}: {os.environ[variable]}") from None


def exact(variable: str) -> list[str]:
    """The words of a variable without those that change arithmetic; a printed note names what is left out."""
    asked = words(variable)
    fast = [flag for flag in asked if flag in FAST or flag.startswith(FAST_STARTS)]
    if fast:
        print(ascii_line(f"rotary: left out of ${variable}, since they change results: {' '.join(fast)}"), flush=True)
    return ["-O3" if flag == "-Ofast" else flag for flag in asked if flag == "-Ofast" or flag not in fast]


def compilers() -> list[list[str]]:
    """What to try, best first: the user's choice alone where there is one."""
    for variable in ("CXX", "CC"):
        if chosen := exact(variable):
            return [chosen]
    return [[name] for name in ("c++", "g++", "clang++", "gcc", "clang", "cc") if shutil.which(name)]


def flags() -> list[list[str]]:
    """Sets of flags, best first."""
    linker = ["-Wl,--as-needed"] if sys.platform == "linux" else []
    if sys.platform == "darwin":
        linker = words("ARCHFLAGS")
    x86 = sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")
    return [extra + linker for extra in ([CLONES, []] if x86 else [[]])]


def build(library: Path) -> str | None:
    """Build the library at that path; None, or the reason why it cannot be built, in one line of ASCII. Raises nothing."""
    try:
        reason = attempt(library)
        if reason is not None:
            library.unlink(missing_ok=True)  # a rejected one, or half of one
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    return None if reason is None else ascii_line(reason)[:400]


def attempt(library: Path) -> str | None:
    """One compiler and set of flags after the other, until one gives a library; None, or why the last of them gave none."""
    if os.name != "posix":
        return f"the native CPU kernel is not built on {sys.platform}"
    found = compilers()
    if not found:
        return "no C++ compiler was found when the package was installed (a C++17 compiler named c++, g++ or clang++, or $CXX)"
    defines = [f"-DROTARY_SOURCE={zlib.crc32(SOURCE.read_bytes())}"]
    user = [flag for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS") for flag in exact(name)]
    reason = None
    for extra in flags():
        for compiler in found:
            command = [*compiler, *PLAIN, *user, *BITS, *extra, *defines, "-x", "c++", str(SOURCE), "-o", str(library)]
            reason = run(command, library)
            if reason is None:
                return None
    return reason


def run(command: list[str], library: Path) -> str | None:
    """Run one compiler, in English; None where it made a library that leaves denormal numbers alone, else the reason."""
    print(ascii_line(" ".join(command)), flush=True)
    speaking = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, env=speaking)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {SECONDS} seconds"
    except OSError as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0 and library.exists():
        return flushes(command[0], library)
    said = done.stderr.decode(errors="replace").splitlines()
    lines = [line for line in said if "error" in line.lower()] or said or [f"exit status {done.returncode}, no library"]
    return f"{command[0]} failed: {lines[0].strip()}"


def flushes(compiler: str, library: Path) -> str | None:
    """The reason to reject a library that makes the process flush denormal numbers to zero. One that does not load is judged later."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", DENORMAL, str(library)], capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 86:
        return f"{compiler} linked start-up code that flushes denormal numbers to zero in the whole process: is fast math on in it?"
    return None


def ascii_line(text: str) -> str:
    """Text in one line that any terminal and any locale can hold: every other character is a question mark."""
    return " ".join(text.split()).encode("ascii", "replace").decode()
