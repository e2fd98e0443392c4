"""The rotation on a GPU at memory speed: one Triton kernel (triton_kernel.py), launched once for q and k together.

The host decides everything from shapes and strides alone: nothing waits for the device, nothing is tuned at the first call, and no
length, batch, offset or number of heads makes Triton compile again. Triton itself is imported at the first launch. With
TRITON_INTERPRET=1 the same kernel runs on CPU tensors in Triton's interpreter, slowly, for tests.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from .._torch import triton_driver
from .._triton import devices
from .._triton.dimensions import Axes, fold, same_layout
from .._triton.launch import ACCESS, MOST, Code
from .._triton.tiles import LARGE, SMALL, Tile, tile_of
from .._types import CosSin, Sizes, Tensors

OLDEST_TRITON = (3, 3)  # tuples inside kernels, and a compiled kernel that is launched with every argument
OLDEST_CHIP = (8, 0)  # conversions from and to bfloat16
_SIZES = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 4, torch.float64: 8}
_FILLED = 1  # large programs per multiprocessor; with fewer, small programs are 2 to 10 % faster on an H100, with more 1 to 4 % slower
_WIDEST = 2**16  # channels of a head: one row of a wider tile does not fit into the registers of a program


@dataclass(eq=False)
class Launch:
    """One launch: indices of the first and last tensor, the number of programs (0: nothing to do), the integer arguments, the kernel."""

    first: int
    last: int
    count: int
    integers: Sizes
    code: Code


@functools.cache
def unavailable() -> str | None:
    if not devices.interpreting():
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
        if not devices.interpreting():
            triton_driver()  # Triton builds it here, and raises on a machine without a C compiler
    except Exception as error:  # a broken installation raises anything; its message is the reason
        return f"triton does not load: {type(error).__name__}: {error}"
    return None


class Geometry(NamedTuple):
    """Where one tensor and its tables are in memory, in elements; y_strides None in place."""

    shape: Sizes
    x_strides: Sizes
    y_strides: Sizes | None
    table_shape: Sizes
    cos_strides: Sizes
    sin_strides: Sizes


def rotate(
    xs: Tensors,
    outs: Tensors,
    tables: tuple[CosSin, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> str | None:
    return _rotate(xs, outs, tables, seq_dim, interleaved, conjugate, columns=0, transposed=False)


def rotate_wide(
    xs: Tensors,
    outs: Tensors,
    tables: tuple[CosSin, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
    adjacent: bool,
    transposed: bool,
) -> str | None:
    """rotate() by tables with a column per channel, for wide.py, which describes them. Tables of half precision are read as they are: the
    arithmetic is float32, or float64 for float64."""
    return _rotate(xs, outs, tables, seq_dim, interleaved, conjugate, columns=1 + adjacent, transposed=transposed)


def _rotate(
    xs: Tensors,
    outs: Tensors,
    tables: tuple[CosSin, ...],
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
    *,
    columns: int,
    transposed: bool,
) -> str | None:
    x = xs[0]
    reason = unavailable()
    if reason is None and not devices.serves(x):
        reason = f"tensors on {x.device}"
    if reason is not None:
        return reason
    geometry = tuple(
        Geometry(x.shape, x.stride(), None if out is x else out.stride(), cos.shape, cos.stride(), sin.stride())
        for x, out, (cos, sin) in zip(xs, outs, tables, strict=True)
    )
    how = (seq_dim, interleaved, conjugate)
    launches = _launches(x.dtype, x.device, *how, geometry, columns, transposed, tables[0][0].dtype)
    if launches is None:  # tables are small against q and k, and nearly always contiguous already
        tables = tuple((cos.contiguous(), sin.contiguous()) for cos, sin in tables)
        return _rotate(xs, outs, tables, *how, columns=columns, transposed=transposed)
    if isinstance(launches, str):
        return launches
    for launch in launches:
        if launch.count:
            i, j = launch.first, launch.last
            tensors = (xs[i], outs[i], *tables[i], xs[j], outs[j], *tables[j])
            launch.code.launch(launch.count, tensors, launch.integers)
    for x, out in zip(xs, outs, strict=True):
        if out is x and not x.is_inference():  # autograd does not see a write through an address
            torch.autograd.graph.increment_version(x)
    return None


# A pure function of its arguments: evicting an entry only costs computing it again.
@functools.lru_cache(maxsize=1024)
def _launches(
    dtype: torch.dtype,
    device: torch.device,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
    geometry: tuple[Geometry, ...],
    columns: int = 0,
    transposed: bool = False,
    table_dtype: torch.dtype = torch.float32,
) -> tuple[Launch, ...] | str | None:
    """The launches, or why these tensors are not served, or None where the tables must be made contiguous first. columns: as in the
    kernel."""
    size = _SIZES.get(dtype)
    if size is None or table_dtype not in _SIZES:
        return f"no kernel for {table_dtype if size else dtype}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST_CHIP:
        return f"compute capability of {device} is older than {_dotted(OLDEST_CHIP)}"
    folded: list[Axes] = []
    dims: list[tuple[int, int]] = []
    for shape, x_strides, out_strides, table, cos_strides, sin_strides in geometry:
        y_strides = x_strides if out_strides is None else out_strides
        if shape[-1] > _WIDEST:
            return f"more than {_WIDEST} channels: {shape[-1]}"
        if shape[-1] > 1 and not x_strides[-1] == y_strides[-1] == 1:
            return "the channels of a tensor are not adjacent in memory (stride of the last dimension is not 1)"
        if 0 not in table and not same_layout(table, cos_strides, sin_strides):
            return None
        axes = fold(shape, x_strides, y_strides, table, cos_strides, seq_dim)
        if axes is None:
            return (
                f"more than two independent dimensions beside sequence and channels: shape {shape}, strides {x_strides}"
            )
        folded.append(axes)
        dim = table[-1] if columns else 2 * table[-1]
        dims.append((dim, 0 if out_strides is None else shape[-1] - dim))
    if max(max(axes[:3]) for axes in folded) > MOST:
        return f"more than {MOST} rows along one dimension"
    together = len(folded) == 2 and dims[0] == dims[1]
    spans = ((0, 1),) if together else tuple((i, i) for i in range(len(folded)))
    if not columns:
        table_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    kind, directions = (dtype, table_dtype, interleaved, columns), (conjugate, transposed)
    launches = tuple(_launch(device, kind, directions, *dims[i], i, j, folded[i], folded[j]) for i, j in spans)
    return launches if all(launch.count <= MOST for launch in launches) else f"more than {MOST} programs"


def _launch(
    device: torch.device,
    kind: tuple[torch.dtype, torch.dtype, bool, int],
    directions: tuple[bool, bool],
    dim: int,
    tail: int,
    i: int,
    j: int,
    q: Axes,
    k: Axes,
) -> Launch:
    """The launch for tensor i alone, or for i and j together. kind: dtype of x and of its tables, interleaved, columns. directions:
    conjugate, transposed."""
    dtype, table_dtype, interleaved, columns = kind
    size = _SIZES[dtype]

    def programs(tile: Tile) -> int:
        groups = sum(-(-axes.heads // tile.heads) for axes in ((q,) if i == j else (q, k)))
        return groups * -(-max(q.tokens, k.tokens) // tile.tokens)

    tile = tile_of(dim, tail, size, LARGE)
    if programs(tile) < _FILLED * _multiprocessors(device):
        tile = tile_of(dim, tail, size, SMALL)
    # A number that divides every stride divides the first address of every row, so it decides how wide the accesses may be. Widths of
    # rows take part, because one token has no stride between rows and would otherwise need another kernel.
    unit = math.gcd(ACCESS // size, dim + tail, *q[3:9], *k[3:9])
    table_unit = math.gcd(ACCESS // _SIZES[table_dtype], dim // 2, *q[9:], *k[9:])
    constants = (dim, tail, interleaved, columns, unit, table_unit, tile.tokens, tile.heads, i != j)
    code = _code((dtype, table_dtype), device, tile.warps, constants)
    return Launch(i, j, programs(tile) if dim + tail else 0, (*q, *k, *directions), code)


@functools.cache
def _code(
    dtypes: tuple[torch.dtype, torch.dtype], device: torch.device, warps: int, constants: tuple[int, ...]
) -> Code:
    """The kernel compiled for these constants, one object for each set. The number of sets does not depend on lengths."""
    return Code(_kernel, device.index or 0, warps, constants)


@functools.cache
def _kernel() -> Any:
    from . import triton_kernel

    return triton_kernel.rotate_kernel


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
