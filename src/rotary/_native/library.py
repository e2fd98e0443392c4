"""The native library: loading it, checking that it can be used, the threads and the instruction set of its loops.

It is built when the package is installed (build.py), without torch's headers, and serves every torch: tensors are passed as numbers.
Loops run in torch's own threads through `torch_parallel_for`, a C function of libtorch since 2.10; with an older torch they run on one
thread. Loops are compiled once for each instruction set. The best that the processor runs is used, or the one that the environment
variable ROTARY_INSTRUCTION_SET names.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import warnings
from pathlib import Path

import torch

from .. import _torch

SOURCES = Path(__file__).parent
LIBRARY = SOURCES / "librotary.so"
REPORT = SOURCES / "build.txt"
"""Written by build.py where the library, or one of its instruction sets, could not be built: the reason, in one line."""
VARIABLE = "ROTARY_INSTRUCTION_SET"
_NOT_HERE = "this processor does not run it"


@functools.cache
def load() -> ctypes.CDLL | str:
    """The library, or the reason why it cannot be used. Threads may race here: all get equal answers."""
    if not LIBRARY.exists():
        reason = REPORT.read_text().strip() if REPORT.exists() else "it was not built when the package was installed"
        return f"no native library: {reason}"
    try:
        reason = _cut_off(LIBRARY)
        if reason is not None:
            return reason
        denormals = _denormals()
        library = ctypes.CDLL(str(LIBRARY))
        if denormals and not _denormals():
            torch.set_flush_denormal(False)
            return "the native library made the process flush denormal numbers to zero: it was built with fast math; that is undone"
        _declare(library)
    except (OSError, AttributeError) as error:
        return f"the native library does not load: {error}"
    # Imported here: it imports subprocess and tempfile, which `import rotary` does not need.
    from .build import source_number

    # In a checkout installed with `pip install -e` the sources may be newer than the library.
    number = source_number(SOURCES)
    if number is not None and library.rotary_source() != number:
        return "the native library was built from other C++ files; install the package again"
    sets = _instruction_sets(library)
    asked = os.environ.get(VARIABLE, "").strip()
    usable = [name for name, state in sets.items() if state == "available"]
    name = asked or (usable or list(sets))[-1]
    if name not in usable:
        state = sets.get(name, f"unknown; known here: {', '.join(sets)}")
        return f"{VARIABLE}={asked}: {state}" if asked else f"the native library cannot be used here: {name}: {state}"
    library.rotary_use_instruction_set(name.encode())
    library.rotary_threads(_torch.parallel_for())
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Declare the types of the functions that are called here. AttributeError for a library of another version of rotary."""
    for function, returned, arguments in (
        (library.rotary_source, ctypes.c_int64, ()),
        (library.rotary_instruction_set, ctypes.c_char_p, (ctypes.c_int32,)),
        (library.rotary_instruction_set_in_use, ctypes.c_char_p, ()),
        (library.rotary_runs, ctypes.c_int32, (ctypes.c_char_p,)),
        (library.rotary_rounds_twice, ctypes.c_int32, (ctypes.c_char_p,)),
        (library.rotary_use_instruction_set, ctypes.c_int32, (ctypes.c_char_p,)),
        (library.rotary_threads, None, (ctypes.c_void_p,)),
        (library.rotary_tables, ctypes.c_int32, (ctypes.c_char_p,)),
    ):
        function.restype, function.argtypes = returned, arguments


def _instruction_sets(library: ctypes.CDLL) -> dict[str, str]:
    """Each instruction set that the library was compiled for, best last, and "available" or the reason why it is not used."""
    sets: dict[str, str] = {}
    while (name := library.rotary_instruction_set(len(sets))) is not None:
        if not library.rotary_runs(name):
            state = _NOT_HERE
        elif not library.rotary_rounds_twice(name):
            state = "the compiler changed its arithmetic, so its bits would not be those of plain torch"
        else:
            state = "available"
        sets[name.decode()] = state
    return sets


def instruction_sets() -> dict[str, str]:
    """Each instruction set that the library was compiled for, best last, and "available" or the reason why it is not used here.
    Empty where there is no library."""
    loaded = load()
    return {} if isinstance(loaded, str) else _instruction_sets(loaded)


def instruction_set() -> str:
    """The name of the instruction set in use. RuntimeError where there is no library."""
    loaded = load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded.rotary_instruction_set_in_use().decode()


def instructions() -> str:
    """The instruction set in use, and what is missing: sets that could not be built or may not be used."""
    missing = [
        f"{name}: {state}" for name, state in instruction_sets().items() if state not in ("available", _NOT_HERE)
    ]
    if REPORT.exists():
        missing.append(REPORT.read_text().strip())
    return "; ".join([instruction_set(), *missing])


def use_instruction_set(name: str) -> None:
    """Compute by that instruction set from now on, in every thread: for tests and measurements. Bits stay the same.

    ValueError where it is unknown or not available here, RuntimeError where there is no library.
    """
    loaded = load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    sets = _instruction_sets(loaded)
    if sets.get(name) != "available":
        known = ", ".join(f"{known} ({state})" for known, state in sets.items())
        raise ValueError(f"no instruction set {name!r} here; this library has {known}")
    loaded.rotary_use_instruction_set(name.encode())


def _cut_off(library: Path) -> str | None:
    """The reason not to load an ELF file that ends before its section table does, or None: reading past its end kills the process by
    SIGBUS."""
    with library.open("rb") as file:
        header = file.read(64)
        size = file.seek(0, 2)
    if header[:6] != b"\x7fELF\x02\x01" or len(header) < 64:  # not ELF of 64 bits, little-endian: left to the loader
        return None
    (sections,) = struct.unpack_from("<Q", header, 0x28)
    entry, count = struct.unpack_from("<HH", header, 0x3A)
    full_size = sections + entry * count
    if size >= full_size:
        return None
    return f"the native library is cut off: {size} of {full_size} bytes; install the package again"


def _denormals() -> bool:
    """True if this thread computes with denormal numbers; start-up code of a library can make it flush them to zero."""
    return float("5e-310") / 2 != 0


@functools.cache
def unavailable() -> str | None:
    """The reason why the library cannot be used, or None. Warns once: a silent fallback would be an unexplained slowdown."""
    loaded = load()
    if not isinstance(loaded, str):
        return None
    warnings.warn(
        f"rotary computes on the CPU with plain torch operations, many times slower: {loaded}",
        RuntimeWarning,
        stacklevel=3,
    )
    return loaded


def threads() -> str:
    """Where loops run: "torch's thread pool", or why they run on one thread."""
    if _torch.parallel_for() is None:
        return f"one thread: torch {torch.__version__} has no torch_parallel_for (2.10 and later have it)"
    return "torch's thread pool"
