"""The CPU kernel of kernels-community/rotary (the kernels hub), built from its sources if they are available.

ROTARY_HUB_KERNELS names a checkout of github.com/huggingface/kernels-community. Sources, compiler flags and the Python around the
kernel are read there, at every run; nothing of them is kept in this repository. The build lies in the folder for temporary files, under
a name made from sources, flags and torch's version, so that it is made once: about two minutes.

    python -m benchmarks.cpu.hub        builds it and says where, or why not
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import tomllib
import torch
from torch.utils import cpp_extension

from rotary.cli.machine import instruction_sets

VARIABLE = "ROTARY_HUB_KERNELS"
_OPERATORS = "rotary_of_the_hub"

# What the hub's build tool generates: the name of the operators, and nothing that Python would import.
_REGISTRATION = """#pragma once
#define TORCH_LIBRARY_EXPAND(NAME, MODULE) TORCH_LIBRARY(NAME, MODULE)
#define REGISTER_EXTENSION(NAME)
"""
_OPS = f"""import torch
ops = torch.ops.{_OPERATORS}
"""


def unavailable() -> str | None:
    """Why the kernel cannot be compared, or None."""
    if VARIABLE not in os.environ:
        return f"not at hand: {VARIABLE} names no checkout of kernels-community"
    if not (_folder() / "build.toml").exists():
        return f"not at hand: {_folder() / 'build.toml'} is not there"
    missing = _needed() - set(instruction_sets())
    if missing:
        return f"not for this processor, which lacks {', '.join(sorted(missing))}"
    return None


def version() -> str:
    """Its number in build.toml, and the first digits of a hash of its CPU sources."""
    folder, digest = _folder(), hashlib.sha256()
    for part in _kernels():
        for name in part["src"]:
            digest.update((folder / name).read_bytes())
    number = tomllib.loads((folder / "build.toml").read_text())["general"]["version"]
    return f"version {number}, CPU sources {digest.hexdigest()[:12]}"


@cache
def package() -> ModuleType:
    """The hub's Python package, including apply_rotary_transformers, with its operators built here. OSError where a build fails."""
    built = _build()
    torch.ops.load_library(built / f"{_OPERATORS}.so")
    sys.path.insert(0, str(built))
    try:
        return importlib.import_module(_OPERATORS)
    finally:
        sys.path.remove(str(built))


def operators() -> Any:
    """Its operators: apply_rotary(x1, x2, cos, sin, out1, out2, conj)."""
    package()
    return getattr(torch.ops, _OPERATORS)


def _folder() -> Path:
    return Path(os.environ[VARIABLE]).expanduser() / "rotary"


def _kernels() -> list[dict[str, Any]]:
    """The parts of the build that are for CPUs: sources, include folders and flags."""
    described = tomllib.loads((_folder() / "build.toml").read_text())
    return [part for part in described["kernel"].values() if part["backend"] == "cpu"]


def _needed() -> set[str]:
    """Instruction sets that its flags -mavx512bf16 and so on allow the compiler, by the names of /proc/cpuinfo."""
    flags = {flag.removeprefix("-m") for part in _kernels() for flag in part.get("cxx-flags", ()) if flag[:2] == "-m"}
    return {"avx512_bf16" if flag == "avx512bf16" else flag for flag in flags}


def _build() -> Path:
    folder = _folder()
    binding = tomllib.loads((folder / "build.toml").read_text())["torch"]["src"]
    plain: list[str] = []
    if platform.machine() == "x86_64" and hasattr(torch._C, "_GLIBCXX_USE_CXX11_ABI"):
        plain = [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    units: list[tuple[Path, list[str]]] = [(folder / name, []) for name in binding if name.endswith(".cpp")]
    for part in _kernels():
        flags = [*part.get("cxx-flags", ()), *(f"-I{folder / name}" for name in part.get("include", ()))]
        units += [(folder / name, flags) for name in part["src"] if name.endswith(".cpp")]
    shared = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fopenmp", *plain, f"-DTORCH_EXTENSION_NAME={_OPERATORS}"]
    shared += ["-DCPU_KERNEL"]
    digest = hashlib.sha256(" ".join([str(torch.__version__), *shared]).encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".cpp", ".hpp", ".py", ".toml"):
            digest.update(path.read_bytes())
    built = Path(tempfile.gettempdir()) / f"rotary-hub-{digest.hexdigest()[:16]}"
    if (built / f"{_OPERATORS}.so").exists():
        return built
    shared += [f"-isystem{path}" for path in (*cpp_extension.include_paths("cpu"), sysconfig.get_path("include"))]
    built.mkdir(exist_ok=True)
    (built / "registration.h").write_text(_REGISTRATION)
    shutil.copytree(folder / "torch-ext" / "rotary", built / _OPERATORS, dirs_exist_ok=True)
    (built / _OPERATORS / "_ops.py").write_text(_OPS)
    objects: list[Path] = []
    for source, flags in units:
        objects.append(built / f"{source.stem}.o")
        _compile(*shared, f"-I{built}", f"-I{folder}", *flags, "-c", str(source), "-o", str(objects[-1]))
    libraries = [f"-L{path}" for path in cpp_extension.library_paths("cpu")]
    unfinished = built / "unfinished.so"
    _compile("-shared", "-fopenmp", *map(str, objects), *libraries, "-ltorch_cpu", "-lc10", "-o", str(unfinished))
    unfinished.rename(built / f"{_OPERATORS}.so")
    return built


def _compile(*arguments: str) -> None:
    command = (os.environ.get("CXX", "c++"), *arguments)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise OSError(f"the kernel of the hub cannot be built: {' '.join(command)}\n{run.stderr}")


if __name__ == "__main__":
    print(unavailable() or _build())
