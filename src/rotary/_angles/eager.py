"""Tables of cos and sin by plain torch operations: the reference for every kernel, and the form that compilers see.

Exact angles take the polynomials of polynomials.py. Real positions and angles="float32" take torch's own cos and sin, whose last bits
are those of the processor and the version of torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._torch import has_float64
from .._types import CosSin
from . import polynomials
from .turns import FAR, in_one_word, turns_along

_BLOCK = 1 << 15  # values of a block per thread: 256 KB in float64; torch starts no second thread for fewer

Amplitude = Callable[[Tensor], "float | Tensor"]
"""positions (..., 1) or (..., P) -> the factor of cos and sin, a number or (..., P)."""


def exact_cos_sin(
    positions: Tensor, high: Tensor, low: Tensor | None, dtype: torch.dtype, amplitude: Amplitude, *, traced: bool
) -> CosSin:
    """cos and sin (..., P) of int64 positions x words (P,) or (batch, 1, P), by fixed-point turns. Without low, high is one word.

    positions: (..., 1), or (..., P), one for each plane. float32 tables from two words have the bits of one word wherever
    |position| <= 2^31, so that a row does not depend on others.
    """

    def table(positions: Tensor) -> CosSin:
        angles = turns_along(positions, high, low)
        if low is not None and dtype != torch.float64:
            near = (positions >= -FAR) & (positions <= FAR)
            angles = torch.where(near, turns_along(positions, in_one_word(high, low), None), angles)
        return cos_sin_of_turns(angles, dtype, amplitude(positions))

    return table(positions) if high.ndim > 1 or traced else in_blocks(table, positions, high.shape[-1], dtype)


def float32_cos_sin(
    positions: Tensor, inv_freq: Tensor, dtype: torch.dtype, amplitude: Amplitude, *, traced: bool
) -> CosSin:
    """cos and sin (..., P) of positions (..., 1) or (..., P) x inv_freq (P,) or (batch, 1, P), by the float32 product of transformers."""

    def table(positions: Tensor) -> CosSin:
        return cos_sin_of_angles(positions.float() * inv_freq, dtype, amplitude(positions))

    return table(positions) if inv_freq.ndim > 1 or traced else in_blocks(table, positions, inv_freq.shape[-1], dtype)


def real_cos_sin(
    positions: Tensor, inv_freq: Tensor, dtype: torch.dtype, amplitude: Amplitude, *, traced: bool
) -> CosSin:
    """cos and sin (..., P) of real positions (..., 1) or (..., P) x inv_freq (P,) or (batch, 1, P): one product in float64 [rad].

    |error| <= 3.0e-8 + |angle| 2^-52 in float32: below 3.1e-8 for |angle| <= 1e7 rad. Positions that require a gradient get it.
    """

    def table(positions: Tensor) -> CosSin:
        angles = positions.to(inv_freq.dtype) * inv_freq
        if angles.requires_grad:
            factor = amplitude(positions)
            return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)
        return cos_sin_of_angles(angles, dtype, amplitude(positions))

    whole = inv_freq.ndim > 1 or traced or positions.requires_grad
    return table(positions) if whole else in_blocks(table, positions, inv_freq.shape[-1], dtype)


def cos_sin_of_turns(turns: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> CosSin:
    """amplitude x (cos, sin) of angles in units of 2^-64 turn, computed in float64 and rounded once to dtype.

    amplitude is a number or a tensor that broadcasts against the angles.
    """
    if not has_float64(turns.device):
        return cos_sin_without_float64(turns, amplitude)
    return scaled(polynomials.cos_sin(turns), amplitude, dtype)


def cos_sin_of_angles(angles: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> CosSin:
    """amplitude x (cos, sin) of angles [rad] in their own dtype, rounded once to dtype. The memory of angles is reused."""
    cos = angles.cos()
    return scaled((cos, angles.sin_()), amplitude, dtype)


def scaled(table: CosSin, amplitude: Tensor | float, dtype: torch.dtype) -> CosSin:
    """amplitude x (cos, sin), rounded once to dtype."""
    cos, sin = table
    if isinstance(amplitude, Tensor) or amplitude != 1.0:
        return (cos * amplitude).to(dtype), (sin * amplitude).to(dtype)
    return cos.to(dtype), sin.to(dtype)


def cos_sin_without_float64(turns: Tensor, amplitude: Tensor | float = 1.0) -> CosSin:
    """cos_sin_of_turns() in float32, for devices without float64. Integers take the quadrant off, so that angles are within pi/4.

    Without the split the rounding of an angle near pi costs 2.9e-7; with it 8.6e-8.
    """
    quadrant = ((turns >> 61) + 1) >> 1
    angles = (turns - (quadrant << 62)).to(torch.float32) * polynomials.RADIANS_PER_UNIT
    cos, sin = angles.cos(), angles.sin()
    swap = (quadrant & 1) == 1
    cos, sin = torch.where(swap, sin, cos), torch.where(swap, cos, sin)
    cos = torch.where(((quadrant + 1) & 2) == 2, -cos, cos)
    sin = torch.where((quadrant & 2) == 2, -sin, sin)
    if isinstance(amplitude, Tensor) or amplitude != 1.0:
        cos, sin = cos * amplitude, sin * amplitude
    return cos, sin


def in_blocks(table: Callable[[Tensor], CosSin], positions: Tensor, planes: int, dtype: torch.dtype) -> CosSin:
    """table(positions), some rows at a time where the float64 intermediates would not fit into the cache: the same bits.

    On the CPU, 8,192 x 64: 8.7 ms at once, most of it page faults of fresh temporaries; 3.0 ms in blocks; on a machine with larger
    caches 2.2 ms and 1.5 ms.
    """
    count = positions.shape[:-1].numel()
    if positions.device.type != "cpu" or count * planes <= 2 * _BLOCK:
        return table(positions)
    values = _BLOCK * torch.get_num_threads()
    flat = positions.reshape(count, positions.shape[-1])
    cos = torch.empty((flat.shape[0], planes), dtype=dtype, device=positions.device)
    sin = torch.empty_like(cos)
    rows = max(1, values // planes)
    for start in range(0, flat.shape[0], rows):
        block = slice(start, start + rows)
        block_cos, block_sin = table(flat[block])
        cos[block].copy_(block_cos)
        sin[block].copy_(block_sin)
    return cos.view(*positions.shape[:-1], planes), sin.view(*positions.shape[:-1], planes)
