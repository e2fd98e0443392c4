"""The native library: where it is, whether it can be trusted, and where its loops run.

It is built when the package is installed (build.py) and needs neither torch's headers nor one torch version: everything about tensors
is passed as numbers. Loops run in torch's own threads through `torch_parallel_for`, a C function of libtorch since 2.10; with an older
torch they run on one thread.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import warnings
import zlib
from pathlib import Path

import torch

from .. import _torch

_FOLDER = Path(__file__).parent
LIBRARY = _FOLDER / "librotary.so"
SOURCE = _FOLDER / "rotate.cpp"
REPORT = _FOLDER / "build.txt"
"""Written by build.py where the library could not be built: the reason, in one line."""


@functools.cache
def load() -> ctypes.CDLL | str:
    """The library, or the reason why it cannot be used. Threads may race here: each comes to the same end."""
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
        source, rounds_twice, set_threads = library.rotary_source, library.rotary_rounds_twice, library.rotary_threads
    except (OSError, AttributeError) as error:
        return f"the native library does not load: {error}"
    source.restype, source.argtypes = ctypes.c_int64, ()
    # A checkout installed with `pip install -e` keeps its library while its source moves on.
    if SOURCE.exists() and source() != zlib.crc32(SOURCE.read_bytes()):
        return f"the native library was built from another {SOURCE.name}; install the package again"
    if not rounds_twice():
        return "the compiler that built the native library changed its arithmetic, so its bits would not be those of plain torch"
    set_threads.restype, set_threads.argtypes = None, (ctypes.c_void_p,)
    set_threads(_torch.parallel_for())
    return library


def _cut_off(library: Path) -> str | None:
    """The reason not to load an ELF file that ends before its last table does: the process would die of SIGBUS where it is read."""
    with library.open("rb") as file:
        header = file.read(64)
        size = file.seek(0, 2)
    if (
        header[:6] != b"\x7fELF\x02\x01" or len(header) < 64
    ):  # 64 bits, little-endian; what else there is the loader judges
        return None
    (sections,) = struct.unpack_from("<Q", header, 0x28)
    entry, count = struct.unpack_from("<HH", header, 0x3A)
    wanted = sections + entry * count
    return (
        None
        if size >= wanted
        else f"the native library is cut off: {size} of {wanted} bytes; install the package again"
    )


def _denormals() -> bool:
    """Whether this thread computes with denormal numbers; start-up code of a library can make it take them for zero."""
    return float("5e-310") / 2 != 0


@functools.cache
def unavailable() -> str | None:
    """The reason why the library cannot be used, or None. Warns once: a silent fallback would be an unexplained slowdown."""
    loaded = load()
    if not isinstance(loaded, str):
        return None
    warnings.warn(
        f"rotary rotates CPU tensors with plain torch operations, many times slower: {loaded}",
        RuntimeWarning,
        stacklevel=3,
    )
    return loaded


def threads() -> str:
    """Where loops run: "torch's thread pool", or why they run on one thread."""
    if _torch.parallel_for() is None:
        return f"one thread: torch {torch.__version__} has no torch_parallel_for (2.10 and later have it)"
    return "torch's thread pool"
