"""The rotation on a GPU at memory speed: one Triton kernel (triton_rotate.py), launched once for q and k together.

Everything that needs a decision is decided here, on the host, from shapes and strides alone: nothing waits for the device, nothing
is tuned at the first call, and no length, batch, offset or number of heads makes Triton compile again. Triton itself is imported at
the first launch. With TRITON_INTERPRET=1 the same kernel runs on CPU tensors through Triton's interpreter: slow, and for tests.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

Table = tuple[Tensor, Tensor]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_OLDEST_TRITON = (3, 3)  # tuples inside kernels, and a compiled kernel that takes every argument
_OLDEST_CHIP = (8, 0)  # conversions from and to bfloat16
_BANKS = 16  # bytes one thread moves in one access

# compiled kernels by everything that decides their code, so that a call does not pay for Triton's own look-up: it costs more than
# all the rest of the launch, see docs/kernels.md
_compiled: dict[tuple[Any, ...], Any] = {}


class Tile(NamedTuple):
    """How much one program does: `heads` heads of as many tokens as give each thread of `warps` warps two accesses per head."""

    heads: int
    warps: int


# Work that fills the chip: four heads share one reading of the tables and are loaded before anything is stored, 128 bytes in flight
# per thread. Less work than that: the smallest programs, so that more multiprocessors take part.
LARGE = Tile(heads=4, warps=4)
SMALL = Tile(heads=1, warps=1)
_PROGRAMS_PER_MULTIPROCESSOR = 2  # of the large kind; with fewer the small kind takes over


class Axes(NamedTuple):
    """One tensor as (batch, heads, seq, channels): sizes, then strides [elements] of x, of y and of the tables' rows."""

    batch: int
    heads: int
    seq: int
    x_b: int
    x_h: int
    x_s: int
    y_b: int
    y_h: int
    y_s: int
    table_b: int
    table_s: int


@functools.cache
def unavailable() -> str | None:
    if not _interpreting():
        if not torch.cuda.is_available():
            return "no CUDA device"
        if torch.version.hip is not None:
            return "ROCm: this kernel has been neither tested nor measured there"
        chips = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        if max(chips) < _OLDEST_CHIP:
            return f"compute capability {max(chips)[0]}.{max(chips)[1]} is older than {_dotted(_OLDEST_CHIP)}"
    if find_spec("triton") is None:
        return "triton is not installed"
    try:
        import triton

        version = tuple(int(part) for part in triton.__version__.split(".")[:2])
        if version < _OLDEST_TRITON:
            return f"triton {triton.__version__} is older than {_dotted(_OLDEST_TRITON)}"
        _kernel()
    except Exception as error:  # a broken installation fails in ways of its own; the reason is what is asked for
        return f"triton does not load: {type(error).__name__}: {error}"
    return None


def rotate(
    xs: tuple[Tensor, ...],
    outs: tuple[Tensor, ...],
    tables: tuple[Table, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> str | None:
    reason = unavailable() or _unserved(xs, outs)
    if reason is not None:
        return reason
    tables = tuple(_rows_adjacent(cos, sin) for cos, sin in tables)
    axes: list[Axes] = []
    for x, out, (cos, _) in zip(xs, outs, tables, strict=True):
        one = axes_of(x, out, cos, seq_dim)
        if one is None:
            return f"more than two independent dimensions beside sequence and channels, shape {tuple(x.shape)} strides {x.stride()}"
        axes.append(one)
    if all(one.seq == 1 for one in axes):  # decoding: the batch takes the place of the sequence, so that tiles are full
        axes = [one._replace(batch=1, seq=one.batch, x_s=one.x_b, y_s=one.y_b, table_s=one.table_b) for one in axes]
    together = len(xs) == 2 and (
        axes[0].batch == axes[1].batch
        and xs[0].shape[-1] == xs[1].shape[-1]
        and tables[0][0].shape[-1] == tables[1][0].shape[-1]
        and (outs[0] is xs[0]) == (outs[1] is xs[1])
    )
    for first in (0,) if together else range(len(xs)):
        last = 2 if together else first + 1
        _launch(xs[first:last], outs[first:last], tables[first:last], axes[first:last], interleaved, conjugate)
    for x, out in zip(xs, outs, strict=True):
        if out is x and not x.is_inference():  # a write through an address is invisible to autograd's version counter
            torch.autograd.graph.increment_version(x)
    return None


def axes_of(x: Tensor, out: Tensor, cos: Tensor, seq_dim: int) -> Axes | None:
    """x and out as (batch, heads, seq, channels), or None where the other dimensions do not fold into two.

    Strides of dimensions of size 1 are 0: nothing is ever added to an address for them, and nothing should be inferred from them.
    """
    shape, x_strides, y_strides = x.shape, x.stride(), out.stride()
    own_rows = cos.ndim == 3 and cos.shape[0] > 1
    others = [
        (n, x_strides[i], y_strides[i]) if n > 1 else (1, 0, 0) for i, n in enumerate(shape[:-1]) if i != seq_dim
    ]
    while len(others) > 2:
        # Two neighbours are one dimension where a step of the outer is as long as all steps of the inner.
        for i in range(own_rows, len(others) - 1):
            (n, x_outer, y_outer), (m, x_inner, y_inner) = others[i : i + 2]
            if n == 1 or m == 1 or (x_outer == m * x_inner and y_outer == m * y_inner):
                inner = others[i + 1] if m > 1 else others[i]
                others[i : i + 2] = [(n * m, *inner[1:])]
                break
        else:
            return None
    nothing = (1, 0, 0)
    if len(others) < 2:
        others = [*others, nothing] if own_rows else [nothing] * (2 - len(others)) + others
    (batch, x_b, y_b), (heads, x_h, y_h) = others
    seq = shape[seq_dim]
    x_s, y_s = (x_strides[seq_dim], y_strides[seq_dim]) if seq > 1 else (0, 0)
    table_b = cos.stride(0) if own_rows else 0
    table_s = cos.stride(-2) if seq > 1 else 0
    return Axes(batch, heads, seq, x_b, x_h, x_s, y_b, y_h, y_s, table_b, table_s)


def tokens_per_program(tile: Tile, planes: int, element_size: int) -> int:
    """Rows of one tile: as many as give each thread one access of 16 bytes to each of the two channels of its planes."""
    width = 1 << (planes - 1).bit_length()
    return min(max(32 * tile.warps * (_BANKS // element_size) // width, 1), 256)


def _launch(
    xs: tuple[Tensor, ...],
    outs: tuple[Tensor, ...],
    tables: tuple[Table, ...],
    axes: list[Axes],
    interleaved: bool,
    conjugate: bool,
) -> None:
    x, cos = xs[0], tables[0][0]
    q, k = axes[0], axes[-1]
    size, dim = x.element_size(), 2 * cos.shape[-1]
    pair = len(xs) == 2
    seq = max(q.seq, k.seq)
    if not seq or not q.batch or not (q.heads or (pair and k.heads)):
        return
    tail = 0 if outs[0] is x else x.shape[-1] - dim
    # What divides every stride divides every row's first address: the width of the accesses follows from it.
    unit = math.gcd(_BANKS // size, *q[3:9], *k[3:9])
    table_unit = math.gcd(_BANKS // cos.element_size(), *q[9:], *k[9:])

    def programs(tile: Tile) -> int:
        groups = -(-q.heads // tile.heads) + (-(-k.heads // tile.heads) if pair else 0)
        return groups * q.batch * -(-seq // tokens_per_program(tile, dim // 2, size))

    tile = LARGE
    count = programs(tile)
    if count < _PROGRAMS_PER_MULTIPROCESSOR * _multiprocessors(x.device):
        tile = SMALL
        count = programs(tile)
    pointers = (xs[0], outs[0], *tables[0], xs[-1], outs[-1], *tables[-1])
    block = tokens_per_program(tile, dim // 2, size)
    constants = (dim, tail, interleaved, conjugate, unit, table_unit, block, tile.heads, pair)
    arguments = (*pointers, *q[1:], *k[1:], q.batch, *constants)
    key = (x.device, x.dtype, cos.dtype, tile.warps, *constants)
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            _run(key, count, tile.warps, pointers, arguments)
    else:
        _run(key, count, tile.warps, pointers, arguments)


def _run(
    key: tuple[Any, ...], count: int, warps: int, pointers: tuple[Tensor, ...], arguments: tuple[Any, ...]
) -> None:
    compiled = _compiled.get(key)
    addresses = 0
    for tensor in pointers:
        addresses |= tensor.data_ptr()
    if compiled is not None and not addresses % _BANKS:
        compiled[(count, 1, 1)](*arguments)
        return
    # fp fusion would contract a * c - b * s into one rounding less: pinned, so that the bits are those of the plain formula on
    # every version of Triton. It costs nothing where memory is what is waited for.
    compiled = _kernel()[(count,)](*arguments, num_warps=warps, enable_fp_fusion=False)
    if compiled is not None and not addresses % _BANKS:  # the interpreter compiles nothing
        _compiled[key] = compiled


def _unserved(xs: tuple[Tensor, ...], outs: tuple[Tensor, ...]) -> str | None:
    x = xs[0]
    if x.dtype not in _DTYPES:
        return f"no kernel for {x.dtype}"
    if not x.is_cuda and not (x.is_cpu and _interpreting()):
        return f"tensors on {x.device}"
    if x.is_cuda and _capability(x.device) < _OLDEST_CHIP:
        return f"compute capability of {x.device} is older than {_dotted(_OLDEST_CHIP)}"
    for tensor in (*xs, *outs):
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            return "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)"
    return None


def _rows_adjacent(cos: Tensor, sin: Tensor) -> Table:
    """Tables with adjacent columns and one set of strides for both: small against q and k, and nearly always so already."""
    if cos.stride() != sin.stride() or (cos.stride(-1) != 1 and cos.shape[-1] > 1):
        return cos.contiguous(), sin.contiguous()
    return cos, sin


@functools.cache
def _kernel() -> Any:
    from . import triton_rotate

    return triton_rotate.rotate_kernel


@functools.cache
def _interpreting() -> bool:
    """Whether Triton interprets instead of compiling. It reads the variable once, when it defines a kernel; so does this."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "y", "yes", "on", "true")


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
