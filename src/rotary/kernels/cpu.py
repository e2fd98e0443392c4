"""The rotation on a CPU at memory speed: native/rotate.cpp, called with addresses.

The library is built when the package is installed (setup.py) and needs neither torch's headers nor one torch version, so
everything about tensors is said here: addresses, shapes and strides as 64-bit integers in one block of bytes. The loop runs in
torch's own threads through `torch_parallel_for`, a C function of libtorch since 2.10; in an older torch it runs on one thread.
"""

from __future__ import annotations

import ctypes
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent / "native"
LIBRARY = _FOLDER / "librotate.so"
SOURCE = _FOLDER / "rotate.cpp"
REPORT = _FOLDER / "build.txt"  # written by setup.py where the library could not be built

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # as the library numbers them
_REASONS = (  # as the library numbers them, from 1
    "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)",
    "the columns of a table are not adjacent in memory (stride of the last dimension is not 1)",
    "more than 16 dimensions",
    "memory that is not aligned to its elements",
    "a tensor without memory",
)
_packers: dict[int, Callable[..., bytes]] = {}
_call: Callable[[bytes], int] | None = None
_why: str | None = None


def unavailable() -> str | None:
    """The reason, with a RuntimeWarning the first time there is one: a fallback that nobody hears of is a slow program."""
    global _why
    if _call is None and _why is None:
        reason = _load()
        if reason is not None:
            warnings.warn(
                f"rotary rotates CPU tensors with plain torch operations, many times slower: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )
        _why = reason
    return _why


def threads() -> str:
    """Where the loop runs: "torch's thread pool", or why it runs on one thread."""
    if _parallel_for() is None:
        return f"one thread: torch {torch.__version__} has no torch_parallel_for (2.10 and later have it)"
    return "torch's thread pool"


def rotate(
    xs: tuple[Tensor, ...],
    outs: tuple[Tensor, ...],
    tables: tuple[tuple[Tensor, Tensor], ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> str | None:
    if _call is None:
        reason = unavailable()
        if reason is not None:
            return reason
        assert _call is not None
    x = xs[0]
    dtype = _DTYPES.get(x.dtype)
    if dtype is None:
        return f"no loop for {x.dtype}"
    if not x.is_cpu:
        return f"tensors on {x.device}"
    # Everything from here to the call is what a decoding step of one token waits for: flat code, one list, one call.
    words = [len(xs), dtype, interleaved, conjugate, seq_dim]
    in_place = False
    seen = at = shape = steps = ()
    for x, out, (cos, sin) in zip(xs, outs, tables):  # noqa: B905 (0.1 us)
        if seen != (id(cos), id(sin)):  # q and k mostly share theirs
            seen = id(cos), id(sin)
            at = cos.data_ptr(), sin.data_ptr()
            shape = cos.shape
            steps = (*shape, *cos.stride(), *sin.stride())
        strides = x.stride()
        if out is x:
            in_place = True
            address = x.data_ptr()
            words += (address, address, *at, len(strides), len(shape), *x.shape, *strides, *strides, *steps)
        else:
            words += (
                x.data_ptr(),
                out.data_ptr(),
                *at,
                len(strides),
                len(shape),
                *x.shape,
                *strides,
                *out.stride(),
                *steps,
            )
    count = len(words)
    pack = _packers.get(count)
    if pack is None:
        pack = _packers[count] = struct.Struct(f"{count}q").pack
    status = _call(pack(*words))
    if status:
        if status < 0:
            raise RuntimeError(
                "torch's thread pool reported an error in torch_parallel_for; the output is not complete"
            )
        return _REASONS[status - 1]
    if in_place:  # a write through an address is invisible to autograd, whose saved tensors would go stale in silence
        for x, out in zip(xs, outs, strict=True):
            if out is x and not x.is_inference():
                torch.autograd.graph.increment_version(x)
    return None


def _load() -> str | None:
    """Set _call, or give the reason why not. Threads may race here: each comes to the same end."""
    global _call
    if not LIBRARY.exists():
        return f"no native library: {REPORT.read_text().strip() if REPORT.exists() else 'it was not built when the package was installed'}"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        source, rounds_twice = library.rotary_source, library.rotary_rounds_twice
        set_threads, function = library.rotary_threads, library.rotary_rotate
    except (OSError, AttributeError) as error:
        return f"the native library does not load: {error}"
    source.restype, source.argtypes = ctypes.c_int64, ()
    # A checkout installed with `pip install -e` keeps its library while its source moves on.
    if SOURCE.exists() and source() != zlib.crc32(SOURCE.read_bytes()):
        return f"the native library was built from another {SOURCE.name}; install the package again"
    if not rounds_twice():
        return "the compiler that built the native library changed its arithmetic, so its bits would not be those of plain torch"
    set_threads.restype, set_threads.argtypes = None, (ctypes.c_void_p,)
    set_threads(_parallel_for())
    function.restype, function.argtypes = ctypes.c_int32, (ctypes.c_char_p,)
    _call = function
    return None


def _parallel_for() -> int | None:
    """The address of torch_parallel_for in the libtorch that is loaded, looked up through the extension module that links it."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).torch_parallel_for, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
