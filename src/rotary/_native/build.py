"""Compiles the C++ sources of this folder into one plain shared library. Runs when the package is installed; imports nothing of rotary.

    python build.py LIBRARY     by hand, for example by a cross compiler: CXX=aarch64-linux-gnu-g++

The library links neither Python nor torch, so one wheel per platform (py3-none-<platform>) serves every Python and every torch.
CXX, CC, CXXFLAGS, CFLAGS and LDFLAGS are respected, except flags that change arithmetic (fast math), which are left out with a note.
If the library cannot be built, the package is installed without it, the reason is written to build.txt, which `rotary info` shows, and
rotary computes by plain torch operations. If it can be built for the baseline alone, build.txt has the reason why not for more.
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
"""The time limit of one run of a compiler [s]."""

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
"""Compiled once for each instruction set, the baseline included; the macro ROTARY_SET is its name."""
AVX2 = ["-mavx2", "-mf16c", "-mbmi2"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
X86 = {
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
}  # best last; instruction_sets.cpp asks the processor for the same
"""Flags of each set. Without -mfma no multiplication and addition can be fused, which would round once where the formula rounds twice."""

# -ffp-contract=off keeps a promise about bits (docs: prefill = decode, native = plain torch), so it comes last and overrides the user's.
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

# Flags of a user that are left out. -fno-fast-math after them is not enough: up to gcc 12 -Ofast and -funsafe-math-optimizations link
# crtfastmath.o even so, whose constructor makes the thread that loads the library flush denormal numbers to zero from then on; and
# -fno-fast-math does not undo constants in single precision, other units, and modes for denormal numbers.
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
    """The words of a variable of the environment, split as a shell splits them. ValueError names a variable that cannot be split."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"${variable} cannot be read: {error}: {os.environ[variable]}") from None


def exact(variable: str) -> list[str]:
    """The words of a variable without those that change arithmetic; a printed note names what is left out."""
    flags = words(variable)
    fast = [flag for flag in flags if flag in FAST or flag.startswith(FAST_STARTS)]
    if fast:
        print(ascii_line(f"rotary: left out of ${variable}, since they change results: {' '.join(fast)}"), flush=True)
    return ["-O3" if flag == "-Ofast" else flag for flag in flags if flag == "-Ofast" or flag not in fast]


def compilers() -> list[list[str]]:
    """The compilers to try, best first; only the user's if $CXX or $CC names one."""
    for variable in ("CXX", "CC"):
        if chosen := exact(variable):
            return [chosen]
    return [[name] for name in ("c++", "g++", "clang++", "gcc", "clang", "cc") if shutil.which(name)]


def instruction_sets() -> dict[str, list[str]]:
    """The instruction sets to compile for besides the baseline, and their flags."""
    return X86 if sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64") else {}


def source_number(folder: Path) -> int | None:
    """A checksum of all C++ files of a folder, by which a library built from other sources is recognised; None without such files."""
    number = None
    for path in sorted((*folder.glob("*.cpp"), *folder.glob("*.h"))):
        number = zlib.crc32(path.name.encode() + b"\0" + path.read_bytes(), number or 0)
    return number


def build(library: Path) -> str | None:
    """Build the library at that path. None if it is complete, else one line of ASCII with the reason why the library, or its further
    instruction sets, could not be built. Raises nothing."""
    try:
        reason = attempt(library)
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        library.unlink(missing_ok=True)  # it may be incomplete
    return None if reason is None else ascii_line(reason)[:400]


def attempt(library: Path) -> str | None:
    """Try one compiler after the other, first for every instruction set, then for the baseline alone, until one gives a library. None, or
    the reason as in build()."""
    if os.name != "posix":
        return f"the native CPU kernel is not built on {sys.platform}"
    candidates = compilers()
    if not candidates:
        return "no C++ compiler was found when the package was installed (a C++17 compiler named c++, g++ or clang++, or $CXX)"
    compile_flags = [flag for name in ("CFLAGS", "CXXFLAGS") for flag in exact(name)]
    link_flags = exact("LDFLAGS")
    sets = instruction_sets()
    reason = reason_without_sets = None
    for tried_sets in (sets, {}) if sets else ({},):
        for compiler in candidates:
            reason = compiled([*compiler, *PLAIN, *compile_flags], link_flags, tried_sets, library)
            if reason is None:
                return (
                    None
                    if reason_without_sets is None
                    else f"built without {' and '.join(sets)}: {reason_without_sets}"
                )
            library.unlink(missing_ok=True)  # it was rejected, or is incomplete
        reason_without_sets = reason_without_sets or reason
    return reason


def compiled(compiler: list[str], link_flags: list[str], sets: dict[str, list[str]], library: Path) -> str | None:
    """Compile and link the library with one compiler, for the baseline and these sets. None, or the reason why it failed."""
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


def run(command: list[str], output: Path) -> str | None:
    """Run one compiler. None if it wrote the output file, else the reason, from its messages in English."""
    english = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, env=english)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {SECONDS} seconds"
    except OSError as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0 and output.exists():
        return None
    messages = done.stderr.decode(errors="replace").splitlines() or [f"exit status {done.returncode}, and no file"]
    errors = [line for line in messages if "error" in line.lower()]
    return f"{command[0]} failed: {(errors or messages)[0].strip()}"


def flushes(compiler: str, library: Path) -> str | None:
    """The reason to reject a library that makes the process flush denormal numbers to zero, or None. A library that does not load gives
    None here: library.py reports it."""
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
    """Text in one line of ASCII, for any terminal and locale, with a question mark for every other character."""
    return " ".join(text.split()).encode("ascii", "replace").decode()


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]).absolute()))
