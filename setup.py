"""Builds the native CPU kernel, src/rotary/kernels/native/rotate.cpp, into a plain shared library inside the package.

It links neither Python nor torch, so one wheel per platform (py3-none-<platform>) serves every Python and every torch, and an
isolated build needs nothing but setuptools. CXX, CC, CXXFLAGS, CFLAGS and LDFLAGS are respected. Where it cannot be built the
install succeeds all the same: one warning, the reason in native/build.txt, which `rotary info` shows, and rotary rotates with
plain torch operations.
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

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCE = Path("src/rotary/kernels/native/rotate.cpp")
NAME = "rotary.kernels.native.librotate"
REPORT = "build.txt"

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


def compilers() -> list[list[str]]:
    """What to try, best first: the user's choice alone where there is one."""
    for variable in ("CXX", "CC"):
        if os.environ.get(variable):
            return [shlex.split(os.environ[variable])]
    return [[name] for name in ("c++", "g++", "clang++", "gcc", "clang", "cc") if shutil.which(name)]


def flags() -> list[list[str]]:
    """Sets of flags, best first."""
    linker = ["-Wl,--as-needed"] if sys.platform == "linux" else []
    if sys.platform == "darwin":
        linker = shlex.split(os.environ.get("ARCHFLAGS", ""))
    x86 = sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")
    return [extra + linker for extra in ([CLONES, []] if x86 else [[]])]


def build(library: Path) -> str | None:
    """Build the library; None, or the reason why not in one line."""
    if os.name != "posix":
        return f"the native CPU kernel is not built on {sys.platform}"
    if not compilers():
        return "no C++ compiler was found when the package was installed (a C++17 compiler named c++, g++ or clang++, or $CXX)"
    defines = [f"-DROTARY_SOURCE={zlib.crc32(SOURCE.read_bytes())}"]
    said = ""
    user = [flag for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS") for flag in shlex.split(os.environ.get(name, ""))]
    for extra in flags():
        for compiler in compilers():
            command = [*compiler, *PLAIN, *user, *BITS, *extra, *defines, "-x", "c++", str(SOURCE), "-o", str(library)]
            print(" ".join(command), flush=True)
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            except (OSError, subprocess.TimeoutExpired) as error:
                said = f"{compiler[0]}: {error}"
                continue
            if done.returncode == 0 and library.exists():
                return None
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
            said = f"{compiler[0]} failed: {lines[0].strip()[:300] if lines else f'exit status {done.returncode}'}"
    return said


class BuildLibrary(build_ext):
    """A shared library under a name of its own, not a Python extension module; never fails an install."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def built(self) -> list[Path]:
        """Where the library, or the report that there is none, lies among the files of the build."""
        library = Path(self.build_lib) / self.get_ext_filename(NAME)
        return [library, library.with_name(REPORT)]

    def build_extension(self, ext: Extension) -> None:
        library, report = self.built()
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)
        report.unlink(missing_ok=True)
        reason = build(library)
        if reason is not None:
            report.write_text(reason + "\n")
            self.warn(f"rotary works without its native CPU kernel, at the speed of plain torch: {reason}")

    def copy_extensions_to_source(self) -> None:
        """For `pip install -e`: what was built to the place beside its source. Never written over: a process may have it mapped."""
        for built in self.built():
            place = SOURCE.with_name(built.name)
            place.unlink(missing_ok=True)
            if built.exists():
                shutil.copy2(built, place)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.built() if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {path: str(SOURCE.with_name(Path(path).name)) for path in self.get_outputs()} if self.inplace else {}


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        _, _, system = super().get_tag()
        return "py3", "none", system


setup(
    ext_modules=[Extension(NAME, sources=[str(SOURCE)])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
