"""The rotation on a GPU at memory speed: one Triton kernel (triton_rotate.py), launched once for q and k together.

Everything that needs a decision is decided here, on the host, from shapes and strides alone: nothing waits for the device, nothing
is tuned at the first call, and no length, batch, offset or number of heads makes Triton compile again. Triton itself is imported at
the first launch. With TRITON_INTERPRET=1 the same kernel runs on CPU tensors through Triton's interpreter: slow, and for tests.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .axes import Axes, Sizes, alike, fold

Table = tuple[Tensor, Tensor]

OLDEST_TRITON = (3, 3)  # tuples inside kernels, and a compiled kernel that is launched with every argument
OLDEST_CHIP = (8, 0)  # conversions from and to bfloat16
ACCESS = 16  # bytes that one thread moves at once
_SIZES = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 4, torch.float64: 8}


class Tile(NamedTuple):
    """What one program does: so many heads of so many tokens, with so many warps."""

    tokens: int
    heads: int
    warps: int


# Work that fills the chip: four heads share one reading of the tables and are loaded before anything is stored, 128 bytes in flight
# per thread. With fewer than two such programs per multiprocessor: the smallest programs, so that all of them take part.
LARGE = {"heads": 4, "warps": 4}
SMALL = {"heads": 1, "warps": 1}
_STAGED = 20  # accesses per thread before the first store, 4 registers each: with more, programs that fit on a multiprocessor get few
_FILLED = 2
_MOST = 2**31 - 1024  # numbers of rows and of programs are 32 bits wide in the kernel, addresses 64


@dataclass(eq=False)
class Code:
    """One compiled kernel, where there is one already: Triton's own way from arguments to it costs more than all the rest of a call."""

    warps: int
    constants: tuple[int, ...]
    compiled: Any = None


@dataclass(eq=False)
class Launch:
    """Which of the tensors, on how many programs, with which integers, in which code. `count` 0: nothing to do."""

    first: int
    last: int
    count: int
    integers: Sizes
    code: Code


@functools.cache
def unavailable() -> str | None:
    if not _interpreting():
        if not torch.cuda.is_available():
            return "no CUDA device"
        if torch.version.hip is not None:
            return "ROCm: this kernel has been neither tested nor measured there"
        newest = max(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
        if newest < OLDEST_CHIP:
            return f"compute capability {_dotted(newest)} is older than {_dotted(OLDEST_CHIP)}"
    if find_spec("triton") is None:
        return "triton is not installed"
    try:
        import triton

        if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
            return f"triton {triton.__version__} is older than {_dotted(OLDEST_TRITON)}"
        _kernel()
    except Exception as error:  # a broken installation fails in ways of its own, and the reason is what is asked for
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
    x = xs[0]
    reason = unavailable()
    if reason is None and not (x.is_cuda or (x.is_cpu and _interpreting())):
        reason = f"tensors on {x.device}"
    if reason is not None:
        return reason
    geometry: list[Any] = []
    for x, out, (cos, sin) in zip(xs, outs, tables, strict=True):
        in_place = out is x
        strides = x.stride()
        geometry += (x.shape, strides, strides if in_place else out.stride(), in_place)
        geometry += (cos.shape, cos.stride(), sin.stride())
    plan = _plan(x.dtype, x.device, seq_dim, interleaved, conjugate, *geometry)
    if plan is None:  # tables are small against q and k, and nearly always well laid out already
        tables = tuple((cos.contiguous(), sin.contiguous()) for cos, sin in tables)
        return rotate(xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
    if isinstance(plan, str):
        return plan
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            _run(plan, xs, outs, tables)
    else:
        _run(plan, xs, outs, tables)
    for x, out in zip(xs, outs, strict=True):
        if out is x and not x.is_inference():  # a write through an address is invisible to autograd's version counter
            torch.autograd.graph.increment_version(x)
    return None


def _run(plan: tuple[Launch, ...], xs: tuple[Tensor, ...], outs: tuple[Tensor, ...], tables: tuple[Table, ...]) -> None:
    for launch in plan:
        if not launch.count:
            continue
        i, j, code = launch.first, launch.last, launch.code
        pointers = (xs[i], outs[i], *tables[i], xs[j], outs[j], *tables[j])
        addresses = 0
        for tensor in pointers:
            addresses |= tensor.data_ptr()
        aligned = not addresses % ACCESS
        compiled = code.compiled
        if compiled is not None and aligned:
            compiled[(launch.count, 1, 1)](*pointers, *launch.integers, *code.constants)
            continue
        # enable_fp_fusion would contract a * c - b * s and leave out a rounding: pinned, so that the bits are those of the plain
        # formula under every version of Triton. Where memory is what is waited for it costs nothing.
        compiled = _kernel()[(launch.count,)](
            *pointers, *launch.integers, *code.constants, num_warps=code.warps, enable_fp_fusion=False
        )
        if aligned:
            code.compiled = compiled  # None from the interpreter


# Nothing in a plan depends on anything but its arguments: forgetting one costs microseconds.
@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype, device: torch.device, seq_dim: int, interleaved: bool, conjugate: bool, *geometry: Any
) -> tuple[Launch, ...] | str | None:
    """The launches, or why these tensors are not served, or None where the tables must be copied first.

    geometry: per tensor the shape, strides of x, strides of out, whether it is in place; shape of cos, strides of cos and of sin.
    """
    size = _SIZES.get(dtype)
    if size is None:
        return f"no kernel for {dtype}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST_CHIP:
        return f"compute capability of {device} is older than {_dotted(OLDEST_CHIP)}"
    every: list[Axes] = []
    dims: list[tuple[int, int]] = []
    for shape, x_strides, y_strides, in_place, table, cos_strides, sin_strides in zip(
        *(geometry[i::7] for i in range(7)), strict=True
    ):
        if shape[-1] > 1 and not x_strides[-1] == y_strides[-1] == 1:
            return "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)"
        if 0 not in table and not alike(table, cos_strides, sin_strides):
            return None
        axes = fold(shape, x_strides, y_strides, table, cos_strides, seq_dim)
        if axes is None:
            return (
                f"more than two independent dimensions beside sequence and channels: shape {shape}, strides {x_strides}"
            )
        every.append(axes)
        dims.append((2 * table[-1], 0 if in_place else shape[-1] - 2 * table[-1]))
    if max(max(axes[:3]) for axes in every) > _MOST:
        return f"more than {_MOST} rows along one dimension"
    together = len(every) == 2 and dims[0] == dims[1]
    spans = ((0, 1),) if together else tuple((i, i) for i in range(len(every)))
    launches = tuple(
        _launch(dtype, size, device, interleaved, conjugate, *dims[i], i, j, every[i], every[j]) for i, j in spans
    )
    return launches if all(launch.count <= _MOST for launch in launches) else f"more than {_MOST} programs"


def _launch(
    dtype: torch.dtype,
    size: int,
    device: torch.device,
    interleaved: bool,
    conjugate: bool,
    dim: int,
    tail: int,
    i: int,
    j: int,
    q: Axes,
    k: Axes,
) -> Launch:
    def programs(tile: Tile) -> int:
        groups = sum(-(-axes.heads // tile.heads) for axes in ((q,) if i == j else (q, k)))
        return groups * -(-max(q.tokens, k.tokens) // tile.tokens)

    tile = tile_of(dim, tail, size, **LARGE)
    if programs(tile) < _FILLED * _multiprocessors(device):
        tile = tile_of(dim, tail, size, **SMALL)
    # What divides every stride divides the first address of every row, and so decides how wide the accesses may be.
    unit = math.gcd(ACCESS // size, *q[3:9], *k[3:9])
    table_unit = math.gcd(ACCESS // max(size, 4), *q[9:], *k[9:])
    constants = (dim, tail, interleaved, unit, table_unit, tile.tokens, tile.heads, i != j)
    code = _code(dtype, device, tile.warps, constants)
    return Launch(i, j, programs(tile) if dim + tail else 0, (*q, *k, conjugate), code)


@functools.cache
def _code(dtype: torch.dtype, device: torch.device, warps: int, constants: tuple[int, ...]) -> Code:
    """The one place for the kernel compiled for these constants; how many there are does not depend on lengths."""
    return Code(warps, constants)


def tile_of(dim: int, tail: int, size: int, *, heads: int, warps: int) -> Tile:
    """As many tokens as give each thread one access to each of the two channels of its planes; fewer heads, then fewer tokens, where
    a long tail would need too many registers. dim, tail: channels turned and copied. size: bytes of a channel.
    """
    row = 32 * warps * ACCESS // size  # channels that all threads move at once

    def width(channels: int) -> int:
        return 1 << max(channels - 1, 0).bit_length()

    tokens = min(max(row // width(max(dim, tail if not dim else 0) // 2), 1), 128)

    def staged() -> float:
        return heads * tokens * (2 * width(dim // 2) + (width(tail) if tail else 0)) / row

    while staged() > _STAGED and heads > 1:
        heads //= 2
    while staged() > _STAGED and tokens > 1:
        tokens //= 2
    return Tile(tokens, heads, warps)


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


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
