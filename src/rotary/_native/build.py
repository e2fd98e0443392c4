"""Compiles the C++ sources of this folder into one plain shared library. Runs when the package is installed; imports nothing of rotary.

    python build.py LIBRARY     the same by hand, say by a cross compiler: CXX=aarch64-linux-gnu-g++

The library links neither Python nor torch, so one wheel per platform (py3-none-<platform>) serves every Python and every torch.
CXX, CC, CXXFLAGS, CFLAGS and LDFLAGS are respected, except flags that change arithmetic (fast math), which are left out with a note.
Where the library cannot be built the install succeeds all the same, the reason is written to build.txt, which `rotary info` shows, and
rotary computes by plain torch operations. Where it can be built for the baseline alone, the reason says that.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = "librotary.so"
REPORT = "build.txt"
SECONDS = 600
"""How long one compiler may take."""

ONCE = (
    "call.cpp",
    "call_at.cpp",
    "instruction_sets.cpp",
    "norm.cpp",
    "norm_check.cpp",
    "overlap.cpp",
    "plan.cpp",
    "rectangles.cpp",
    "rotate.cpp",
    "self_check.cpp",
    "store.cpp",
    "tables.cpp",
    "threads.cpp",
    "torch.cpp",
)
EACH = ("norm_loops.cpp", "rows.cpp", "table_loops.cpp")
"""Compiled once for the baseline and once for every other instruction set, whose name ROTARY_SET is."""
AVX2 = ["-mavx2", "-mf16c", "-mbmi2"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
X86 = {
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
}  # best last; instruction_sets.cpp asks the processor for the same
"""Flags of each set. Not -mfma: what is not there cannot round once where the formula rounds twice."""

# -ffp-contract=off is a promise about bits (docs: prefill = decode, native = plain torch), so it comes last and wins.
PLAIN = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-trapping-math",
]
BITS = ["-fno-fast-math", "-ffp-contract=off"]

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


def instruction_sets() -> dict[str, list[str]]:
    """The instruction sets worth a try beside the baseline, and their flags."""
    return X86 if sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64") else {}


def source_number(folder: Path) -> int | None:
    """A number made from all C++ files of a folder, by which a library of other sources is known; None where there are none."""
    number = None
    for path in sorted((*folder.glob("*.cpp"), *folder.glob("*.h"))):
        number = zlib.crc32(path.name.encode() + b"\0" + path.read_bytes(), number or 0)
    return number


def build(library: Path) -> str | None:
    """Build the library at that path. None, or in one line of ASCII what is missing: the library, or, where there is one, instruction
    sets. Raises nothing."""
    try:
        reason = attempt(library)
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        library.unlink(missing_ok=True)  # half of one
    return None if reason is None else ascii_line(reason)[:400]


def attempt(library: Path) -> str | None:
    """One compiler after the other, first with every instruction set, then with the baseline, until one gives a library."""
    if os.name != "posix":
        return f"the native CPU kernel is not built on {sys.platform}"
    found = compilers()
    if not found:
        return "no C++ compiler was found when the package was installed (a C++17 compiler named c++, g++ or clang++, or $CXX)"
    compile_flags = [flag for name in ("CFLAGS", "CXXFLAGS") for flag in exact(name)]
    link_flags = exact("LDFLAGS")
    sets = instruction_sets()
    reason = lost = None
    for tried in (sets, {}) if sets else ({},):
        for compiler in found:
            reason = compiled([*compiler, *PLAIN, *compile_flags], link_flags, tried, library)
            if reason is None:
                return None if lost is None else f"built without {' and '.join(sets)}: {lost}"
            library.unlink(missing_ok=True)  # a rejected one, or half of one
        lost = lost or reason
    return reason


def compiled(compiler: list[str], link_flags: list[str], sets: dict[str, list[str]], library: Path) -> str | None:
    """The library by one compiler and its flags, for the baseline and these sets; None, or why there is none."""
    once = [f"-DROTARY_SOURCE={source_number(FOLDER)}"]
    if sets:
        once.append("-DROTARY_SETS=" + " ".join(f"SET({name})" for name in sets))
    target = words("ARCHFLAGS") if sys.platform == "darwin" else []
    each = {name: [*flags, f"-DROTARY_SET={name}"] for name, flags in {"baseline": [], **sets}.items()}
    # The longest first (norm_loops.cpp takes 12 s, whatever is compiled once less than one), so that no core waits for the last.
    work = [(source, flags) for source in EACH for flags in each.values()] + [(source, once) for source in ONCE]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.o") for i in range(len(work))]
        commands = [
            [*compiler, *BITS, *target, *flags, "-c", "-x", "c++", str(FOLDER / source), "-o", str(file)]
            for (source, flags), file in zip(work, files, strict=True)
        ]
        needed = ["-Wl,--as-needed"] if sys.platform == "linux" else []
        link = [*compiler, *BITS, *target, "-shared", *map(str, files), *link_flags, *needed, "-o", str(library)]
        for command in (*commands, link):
            print(ascii_line(" ".join(command)), flush=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = [reason for reason in pool.map(run, commands, files) if reason is not None]
        return reasons[0] if reasons else run(link, library) or flushes(compiler[0], library)


def run(command: list[str], made: Path) -> str | None:
    """Run one compiler, in English; None where it made that file, else the reason."""
    speaking = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, env=speaking)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {SECONDS} seconds"
    except OSError as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0 and made.exists():
        return None
    said = done.stderr.decode(errors="replace").splitlines()
    lines = (
        [line for line in said if "error" in line.lower()] or said or [f"exit status {done.returncode}, and no file"]
    )
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


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]).absolute()))
