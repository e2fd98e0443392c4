"""Exact tables by the best that serves: the native library on a CPU, one kernel on a GPU, plain torch operations elsewhere.

All three compute what polynomials.py defines, so that the choice is a matter of speed. Tensors that something traces, and those of
subclasses, take the operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .._constants import Constants
from .._rotation import backends
from .._torch import tracing
from .._triton.devices import serves
from .._types import CosSin
from . import eager, native
from .turns import sum_of_turns
from .work import Work, work
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

    high, low: turns per token, (planes,) or (batch, 1, planes); low None: high is one word, in_one_word().
    axes: (planes,) int64, the coordinate that each plane reads.
    factor: the attention factor, a number or (batch,); amplitude: the same as a tensor (1,) or (batch,) float64, where there is one.
    decay: of xPos, multiplied with it.
    """
    made = None
    if not traced and type(positions) is Tensor and (kernel := _kernel(positions)) is not None:
        if amplitude is None:
            amplitude = _as_tensor(factor, positions.device)
        powers = None if decay is None else decay.powers.on(positions.device)
        given = work(positions, high, low, dtype, axes=axes, amplitude=amplitude, decay=powers)
        made = None if given is None else _filled(kernel, given, dtype)
    if made is not None:
        return made
    along = positions[..., None] if axes is None else read_along(positions, axes)
    if isinstance(factor, Tensor) and factor.ndim:
        factor = factor[:, None, None]

    def scale(positions: Tensor) -> float | Tensor:
        return factor if decay is None else decay.at(positions[..., 0]) * factor

    return eager.exact_cos_sin(along, high, low, dtype, scale, traced=traced)


def cos_sin_of_turns(turns: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> CosSin:
    """amplitude x (cos, sin) of angles (..., planes) int64 in units of 2^-64 turn; amplitude is a number or broadcasts against them."""
    kernel = None if type(turns) is not Tensor or turns.ndim == 0 or tracing() else _kernel(turns)
    if kernel is None:
        return eager.cos_sin_of_turns(turns, dtype, amplitude)
    device, planes = turns.device, turns.shape[-1]
    alone = not isinstance(amplitude, Tensor)  # a tensor multiplies before the one rounding, as anywhere
    factor = _as_tensor(1.0 if isinstance(amplitude, Tensor) else amplitude, device)
    own, once = _each_its_own(planes)
    wanted = dtype if alone else torch.float64
    given = work(turns, once.on(device), None, wanted, axes=own.on(device), amplitude=factor, decay=None)
    made = None if given is None else _filled(kernel, given, wanted)
    if made is None:
        return eager.cos_sin_of_turns(turns, dtype, amplitude)
    return made if alone else eager.scaled(made, amplitude, dtype)


def cos_sin_of_directions(positions: Tensor, high: Tensor, low: Tensor, dtype: torch.dtype) -> CosSin:
    """(cos, sin) of dense directions: positions and words as sum_of_turns() takes them, in blocks of rows where that is faster."""

    def table(positions: Tensor) -> CosSin:
        return cos_sin_of_turns(sum_of_turns(positions, high, low), dtype)

    whole = high.ndim > 2 or type(positions) is not Tensor or tracing()
    return table(positions) if whole else eager.in_blocks(table, positions, high.shape[0], dtype)


@functools.lru_cache(maxsize=64)
def _each_its_own(planes: int) -> tuple[Constants, Constants]:
    """Axes and words by which plane j reads number j of a row, and takes it once: turns that are there already."""
    return Constants(tuple(range(planes)), torch.int64), Constants((1,) * planes, torch.int64)


def read_along(positions: Tensor, axes: Tensor) -> Tensor:
    """What each plane reads of positions (..., coordinates): (..., planes)."""
    # a quarter of the time of index_select along the last dimension
    return positions.gather(-1, axes.expand(*positions.shape[:-1], axes.shape[0]))


def _as_tensor(factor: float | Tensor, device: torch.device) -> Tensor:
    """A number or (batch,) numbers as (1,) or (batch,) float64, without a copy from the host, which would wait for a device."""
    if isinstance(factor, Tensor):
        return factor.to(device, torch.float64).reshape(-1).contiguous()
    return _ONE.on(device) if factor == 1.0 else torch.full((1,), factor, dtype=torch.float64, device=device)


def _kernel(positions: Tensor) -> str | None:
    """ "native" or "triton" where it serves positions here, chosen as for rotations; None: plain torch operations."""
    chosen = backends.chosen()
    if chosen in (None, "triton") and serves(positions) and backends.kernel("triton").unavailable() is None:
        return "triton"
    if chosen in (None, "native") and positions.is_cpu and native.unavailable() is None:
        return "native"
    return None


def _fill(kernel: str) -> Callable[[Work, Tensor, Tensor], bool]:
    if kernel == "native":
        return native.fill
    from . import gpu  # at its first use, as the kernels of a rotation

    return gpu.fill


def _filled(kernel: str, given: Work, dtype: torch.dtype) -> CosSin | None:
    """The tables by that kernel; None where it does not serve their number of rows."""
    stored = dtype if dtype in _STORED else torch.float64  # half precision rounds what is exact, once
    cos = torch.empty(given.shape, dtype=stored, device=given.positions.device)
    sin = torch.empty_like(cos)
    if cos.numel() and not _fill(kernel)(given, cos, sin):
        return None
    return (cos, sin) if stored == dtype else (cos.to(dtype), sin.to(dtype))
