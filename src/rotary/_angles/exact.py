"""Exact tables: by the native library on a CPU, by one kernel on a GPU, by plain torch operations elsewhere.

All three compute the polynomials of polynomials.py in the same bits, so the choice is a matter of speed. Traced tensors and tensor
subclasses take the torch operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .._constants import Constants
from .._rotation import backends
from .._torch import tracing
from .._triton import devices
from .._types import CosSin
from . import eager, native
from .turns import sum_of_turns
from .work import Work, work_of
from .xpos import Decay

_STORED = (torch.float32, torch.float64)
_ONE = Constants((1.0,), torch.float64)


def cos_sin(
    positions: Tensor,
    high: Tensor,
    low: Tensor | None,
    dtype: torch.dtype,
    *,
    axes: Tensor | None = None,
    factor: float | Tensor = 1.0,
    amplitude: Tensor | None = None,
    decay: Decay | None = None,
    traced: bool,
) -> CosSin:
    """(cos, sin), each (..., planes), of int64 positions (...), or with axes (..., coordinates), times the amplitude.

    high, low: turns per token, (planes,) or (batch, 1, planes); without low, high is one word, in_one_word().
    axes: (planes,) int64, the coordinate that each plane reads.
    factor: the attention factor, a number or (batch,). amplitude: the factor as a tensor (1,) or (batch,) float64, if the caller has it.
    decay: of xPos; tables are multiplied by it too.
    """
    tables = None
    if not traced and type(positions) is Tensor and (kernel := _kernel_for(positions)) is not None:
        if amplitude is None:
            amplitude = _as_tensor(factor, positions.device)
        powers = None if decay is None else decay.powers.on(positions.device, traced=False)
        work = work_of(positions, high, low, dtype, axes=axes, amplitude=amplitude, decay=powers)
        tables = None if work is None else _tables_by(kernel, work, dtype)
    if tables is not None:
        return tables
    along = positions[..., None] if axes is None else read_along(positions, axes)
    if isinstance(factor, Tensor) and factor.ndim:
        factor = factor[:, None, None]

    def scale(positions: Tensor) -> float | Tensor:
        return factor if decay is None else decay.at(positions[..., 0], traced=traced) * factor

    return eager.exact_cos_sin(along, high, low, dtype, scale, traced=traced)


def cos_sin_of_turns(turns: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> CosSin:
    """amplitude x (cos, sin) of angles (..., planes) int64 in units of 2^-64 turn; amplitude is a number or broadcasts against them."""
    kernel = None if type(turns) is not Tensor or turns.ndim == 0 or tracing() else _kernel_for(turns)
    if kernel is None:
        return eager.cos_sin_of_turns(turns, dtype, amplitude)
    device, planes = turns.device, turns.shape[-1]
    # The kernel multiplies by a number itself. By a tensor its float64 tables are multiplied here, before they are rounded once to dtype.
    by_kernel = not isinstance(amplitude, Tensor)
    factor = _as_tensor(1.0 if isinstance(amplitude, Tensor) else amplitude, device)
    axes, ones = _identity(planes)
    stored = dtype if by_kernel else torch.float64
    work = work_of(turns, ones.on(device), None, stored, axes=axes.on(device), amplitude=factor, decay=None)
    tables = None if work is None else _tables_by(kernel, work, stored)
    if tables is None:
        return eager.cos_sin_of_turns(turns, dtype, amplitude)
    return tables if by_kernel else eager.scaled(tables, amplitude, dtype)


def cos_sin_of_directions(positions: Tensor, high: Tensor, low: Tensor, dtype: torch.dtype) -> CosSin:
    """(cos, sin) of dense directions: positions and words as sum_of_turns() takes them, in blocks of rows where that is faster."""

    def table(positions: Tensor) -> CosSin:
        return cos_sin_of_turns(sum_of_turns(positions, high, low), dtype)

    whole = high.ndim > 2 or type(positions) is not Tensor or tracing()
    return table(positions) if whole else eager.in_blocks(table, positions, high.shape[0], dtype)


@functools.lru_cache(maxsize=64)
def _identity(planes: int) -> tuple[Constants, Constants]:
    """Axes and words with which a kernel takes turns as they are: plane j reads number j of a row, times 1."""
    return Constants(tuple(range(planes)), torch.int64), Constants((1,) * planes, torch.int64)


def read_along(positions: Tensor, axes: Tensor) -> Tensor:
    """The coordinate that each plane reads: positions (..., coordinates) -> (..., planes)."""
    # 4,096 x 3 positions to 64 planes on a CPU: gather 0.34 ms, index_select 0.96 ms, positions[..., axes] 2.6 ms.
    return positions.gather(-1, axes.expand(*positions.shape[:-1], axes.shape[0]))


def _as_tensor(factor: float | Tensor, device: torch.device) -> Tensor:
    """A number or (batch,) numbers as (1,) or (batch,) float64, without a copy from the host, which would wait for the device."""
    if isinstance(factor, Tensor):
        return factor.to(device, torch.float64).reshape(-1).contiguous()
    return (
        _ONE.on(device, traced=False) if factor == 1.0 else torch.full((1,), factor, dtype=torch.float64, device=device)
    )


def _kernel_for(positions: Tensor) -> str | None:
    """The kernel that makes tables of these positions, "native" or "triton", chosen as for rotations; None: plain torch operations."""
    chosen = backends.chosen()
    ordinary = positions.is_cpu and not devices.interpreting()  # an ordinary CPU tensor asks nothing of Triton
    by_triton = not ordinary and chosen in (None, "triton") and devices.serves(positions)
    if by_triton and backends.kernel("triton").unavailable() is None:
        return "triton"
    if chosen in (None, "native") and positions.is_cpu and native.unavailable() is None:
        return "native"
    return None


def _fill(kernel: str) -> Callable[[Work, Tensor, Tensor], bool]:
    if kernel == "native":
        return native.fill
    from . import gpu  # at its first use, as backends.py imports the kernels of a rotation

    return gpu.fill


def _tables_by(kernel: str, work: Work, dtype: torch.dtype) -> CosSin | None:
    """The tables by that kernel; None where it does not serve their number of rows."""
    stored = dtype if dtype in _STORED else torch.float64  # so that tables in half precision are rounded once
    cos = torch.empty(work.shape, dtype=stored, device=work.positions.device)
    sin = torch.empty_like(cos)
    if cos.numel() and not _fill(kernel)(work, cos, sin):
        return None
    return (cos, sin) if stored == dtype else (cos.to(dtype), sin.to(dtype))
