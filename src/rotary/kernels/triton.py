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
from typing import Any

import torch
from torch import Tensor

from .axes import Axes, Sizes, alike, fold
from .code import ACCESS, MOST, Code
from .tiles import LARGE, SMALL, Tile, tile_of

Table = tuple[Tensor, Tensor]

OLDEST_TRITON = (3, 3)  # tuples inside kernels, and a compiled kernel that is launched with every argument
OLDEST_CHIP = (8, 0)  # conversions from and to bfloat16
_SIZES = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 4, torch.float64: 8}
_FILLED = 2  # large programs for each multiprocessor, or small ones do better: all of them take part
_AS_BEFORE = (None, None, None)
_WIDEST = 2**16  # channels of a head: of tiles much larger than that, one row does not fit


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
        if not _interpreting():
            from triton.runtime.driver import driver

            getattr(driver, "active")  # noqa: B009  asked for, it is built: a machine without a C compiler says so here
    except Exception as error:  # a broken installation fails in ways of its own, and the reason is what is asked for
        return f"triton does not load: {type(error).__name__}: {error}"
    return None


def serves(x: Tensor) -> bool:
    """Whether x is where the kernels run."""
    return x.is_cuda or (x.is_cpu and _interpreting())


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
    if reason is None and not serves(x):
        reason = f"tensors on {x.device}"
    if reason is not None:
        return reason
    # Everything from here to the launch is what a decoding step of one token waits for.
    geometry: list[Any] = []
    before = None
    for x, out, table in zip(xs, outs, tables):  # noqa: B905 (0.1 us)
        strides = x.stride()
        geometry += (x.shape, strides, None if out is x else out.stride())
        if table is not before:  # q and k mostly share theirs
            before = cos, sin = table
            geometry += (cos.shape, cos.stride(), sin.stride())
        else:
            geometry += _AS_BEFORE
    plan = _plan(x.dtype, x.device, seq_dim, interleaved, conjugate, *geometry)
    if plan is None:  # tables are small against q and k, and nearly always well laid out already
        tables = tuple((cos.contiguous(), sin.contiguous()) for cos, sin in tables)
        return rotate(xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
    if isinstance(plan, str):
        return plan
    for launch in plan:
        if launch.count:
            i, j = launch.first, launch.last
            tensors = (xs[i], outs[i], *tables[i], xs[j], outs[j], *tables[j])
            launch.code.launch(launch.count, tensors, launch.integers)
    for x, out in zip(xs, outs, strict=True):
        if out is x and not x.is_inference():  # a write through an address is invisible to autograd's version counter
            torch.autograd.graph.increment_version(x)
    return None


# Nothing in a plan depends on anything but its arguments: forgetting one costs microseconds.
@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype, device: torch.device, seq_dim: int, interleaved: bool, conjugate: bool, *geometry: Any
) -> tuple[Launch, ...] | str | None:
    """The launches, or why these tensors are not served, or None where the tables must be copied first.

    geometry: per tensor the shape, strides of x, strides of out (None in place); shape of cos, strides of cos and of sin (None where
        they are those of the tensor before).
    """
    size = _SIZES.get(dtype)
    if size is None:
        return f"no kernel for {dtype}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST_CHIP:
        return f"compute capability of {device} is older than {_dotted(OLDEST_CHIP)}"
    every: list[Axes] = []
    dims: list[tuple[int, int]] = []
    before: Any = None
    for shape, x_strides, y_strides, *given in zip(*(geometry[i::6] for i in range(6)), strict=True):
        in_place = y_strides is None
        y_strides = x_strides if in_place else y_strides
        before = table, cos_strides, sin_strides = before if given[0] is None else given
        if shape[-1] > _WIDEST:
            return f"more than {_WIDEST} channels: {shape[-1]}"
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
    if max(max(axes[:3]) for axes in every) > MOST:
        return f"more than {MOST} rows along one dimension"
    together = len(every) == 2 and dims[0] == dims[1]
    spans = ((0, 1),) if together else tuple((i, i) for i in range(len(every)))
    launches = tuple(
        _launch(dtype, size, device, interleaved, conjugate, *dims[i], i, j, every[i], every[j]) for i, j in spans
    )
    return launches if all(launch.count <= MOST for launch in launches) else f"more than {MOST} programs"


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
    # What divides every stride divides the first address of every row, and so decides how wide the accesses may be. The widths of
    # rows take part, since one token has no stride between rows and would otherwise be a kernel of its own.
    unit = math.gcd(ACCESS // size, dim + tail, *q[3:9], *k[3:9])
    table_unit = math.gcd(ACCESS // max(size, 4), dim // 2, *q[9:], *k[9:])
    constants = (dim, tail, interleaved, unit, table_unit, tile.tokens, tile.heads, i != j)
    code = _code(dtype, device, tile.warps, constants)
    return Launch(i, j, programs(tile) if dim + tail else 0, (*q, *k, conjugate), code)


@functools.cache
def _code(dtype: torch.dtype, device: torch.device, warps: int, constants: tuple[int, ...]) -> Code:
    """The one place for the kernel compiled for these constants; how many there are does not depend on lengths."""
    return Code(_kernel, device.index or 0, warps, constants)


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
