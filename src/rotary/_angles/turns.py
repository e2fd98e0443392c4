"""Exact angles: fixed-point turns -> cos, sin.

A turn is 2 pi radians. A frequency is kept as the fraction of a turn that one token adds, an integer in units of 2^-95 turn, in two
words:

     turns per token   =   high * 2^-64   +   low * 2^-95

     bit weight    2^-1 ............... 2^-64 | 2^-65 ....... 2^-95
                   high: int64, wraps         | low: 31 bits, >= 0

Whole turns do not change cos and sin, and int64 drops them by itself: multiplication modulo 2^64 in units of 2^-64 turn is
multiplication modulo one turn. So position x frequency is exact integer arithmetic. The same with 8 bits instead of 64:

     frequency 0.3 turn per token    77 / 256 turn      (0.3008, the rounding of the frequency to its last bit)
     position 1000                   1000 * 77 = 77000 = 300 * 256 + 200      the int8 product keeps 200: 0.78 turn, exactly

The only errors left are the rounding of the frequency to its last bit and the final cos and sin in float64: for |position| <= 2^31

    float32 tables, from one word       |cos, sin - truth| <= 3.1e-8    (correct rounding alone: 2.98e-8)
    float64 tables, from both words     about 5e-16
    float32 arithmetic throughout       <= 1.0e-7    where the device has no float64

The usual float32 product position x frequency is off by 5e-8 x position: 5e-2 at a million tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .._constants import Constants
from .._torch import has_float64
from .._types import CosSin

# floor(2^320 / (2 pi)): the digits of 1/(2 pi), more than any float32 frequency can ask for. Compared with mpmath in the tests.
ONE_TURN = 0x28BE60DB9391054A7F09D5F47D4D377036D8A5664F10E4107F9458EAF7AEF1586DC91B8E909374B8
_ONE_TURN_BITS = 320

_TURN_BITS = 64  # of high: 2^64 units are one turn
_EXTRA_BITS = 31  # of low, which float64 tables need
_EXTRA_MASK = (1 << _EXTRA_BITS) - 1
_GUARD_BITS = 24  # below low, so that the product with a 24-bit mantissa is right in the last bit of low
_GUARD_MASK = (1 << _GUARD_BITS) - 1
RADIANS_PER_UNIT = 2.0 * math.pi * 2.0**-_TURN_BITS
_BLOCK = 1 << 15  # values of a block for each thread: 256 KB in float64, the least that torch gives one

FAR = 1 << 31
"""The largest |position| for which one word gives float32 tables within 3.1e-8; beyond it two words do."""

Amplitude = Callable[[Tensor], "float | Tensor"]
"""positions (..., 1) or (..., P) -> what cos and sin are multiplied by, a number or (..., P)."""


def turns_per_token(inv_freq: Tensor, divisor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The two words (high, low) of inv_freq / (2 pi divisor), each int64 and shaped like inv_freq, a float32 tensor [rad/token].

    A float32 number is mantissa x 2^exponent, the mantissa an integer of 24 bits. 2^exponent / (2 pi divisor) comes from a table of
    119 fractional bits made from Python integers, never from a rounded 1/(2 pi); the product is integer arithmetic on any device.
    """
    bits = inv_freq.view(torch.int32).to(torch.int64)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    mantissa = torch.where(exponent > 0, fraction | 0x800000, fraction)
    mantissa = torch.where(bits < 0, -mantissa, mantissa)
    top, middle, guard = _turns_of_powers_of_two(divisor).on(inv_freq.device)[:, exponent].unbind(0)
    carry = (mantissa * guard) >> _GUARD_BITS
    low = mantissa * middle + carry  # below 2^56
    return mantissa * top + (low >> _EXTRA_BITS), low & _EXTRA_MASK


@functools.lru_cache(maxsize=64)
def _turns_of_powers_of_two(divisor: float) -> Constants:
    """(3, 255) int64: 2^(exponent - 150) / (2 pi divisor) turns for each biased float32 exponent, cut at 2^-64, 2^-95, 2^-119."""
    fractional = _TURN_BITS + _EXTRA_BITS + _GUARD_BITS
    words: list[tuple[int, int, int]] = []
    for exponent in range(255):
        power = Fraction(2) ** (max(exponent, 1) - 150 + fractional - _ONE_TURN_BITS)
        value = round(ONE_TURN * power / Fraction(divisor))
        top, rest = divmod(value, 1 << (_EXTRA_BITS + _GUARD_BITS))
        words.append((_wrap(top), rest >> _GUARD_BITS, rest & _GUARD_MASK))
    return Constants(tuple(zip(*words, strict=True)), torch.int64)


def turns_of_numbers(inv_freq: Sequence[float], divisor: float = 1.0) -> tuple[list[int], list[int]]:
    """The two words of float64 numbers, all 53 bits of each: the same by Python's integers, for frequencies that are given in float64."""
    high: list[int] = []
    low: list[int] = []
    for number in inv_freq:
        units = (
            Fraction(number) / Fraction(divisor) * ONE_TURN * Fraction(2) ** (_TURN_BITS + _EXTRA_BITS - _ONE_TURN_BITS)
        )
        top, rest = divmod(round(units), 1 << _EXTRA_BITS)
        high.append(_wrap(top))
        low.append(rest)
    return high, low


def _wrap(value: int) -> int:
    """The int64 that value is, modulo 2^64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def in_one_word(high: Tensor, low: Tensor) -> Tensor:
    """Turns per token in units of 2^-64 turn, rounded: all that float32 tables need."""
    return high + (low >> (_EXTRA_BITS - 1))


def turns(positions: Tensor, high: Tensor, low: Tensor | None = None) -> Tensor:
    """Angles as int64 in units of 2^-64 turn, whole turns dropped: positions (...) int64 x words (..., P) -> (..., P).

    float64 tables need both words, split so that no product leaves int64 for any int64 position; float32 tables need one, that of
    in_one_word().
    """
    return turns_along(positions[..., None], high, low)


def turns_along(positions: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
    """The same for positions (..., 1), or (..., P), one for each plane."""
    if low is None:
        return positions * high
    return positions * high + (positions >> _EXTRA_BITS) * low + (((positions & _EXTRA_MASK) * low) >> _EXTRA_BITS)


def sum_of_turns(positions: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Angles of dense directions, turns dropped: positions (..., seq, n) int64 x words (P, n) or (heads, P, n) -> (..., seq, P).

    The products wrap, so that the sum over coordinates is exact but for the last bit of each word.
    """
    made = [
        turns_along(positions[..., c, None], high[..., None, :, c], low[..., None, :, c])
        for c in range(positions.shape[-1])
    ]
    return torch.stack(made).sum(0)


def exact_cos_sin(
    positions: Tensor, high: Tensor, low: Tensor | None, dtype: torch.dtype, amplitude: Amplitude, *, traced: bool
) -> CosSin:
    """cos and sin (..., P) of int64 positions x words (P,) or (batch, 1, P), by fixed-point turns; low None: high is one word.

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
    angles = turns.to(torch.float64).mul_(RADIANS_PER_UNIT)
    return cos_sin_of_angles(angles, dtype, amplitude)


def cos_sin_of_angles(angles: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> CosSin:
    """amplitude x (cos, sin) of angles [rad] in their own dtype, rounded once to dtype. The memory of angles is reused."""
    cos = angles.cos()
    if isinstance(amplitude, Tensor) or amplitude != 1.0:
        return (cos * amplitude).to(dtype), (angles.sin_() * amplitude).to(dtype)
    return cos.to(dtype), angles.sin_().to(dtype)


def cos_sin_without_float64(turns: Tensor, amplitude: Tensor | float = 1.0) -> CosSin:
    """The same in float32: the quadrant is taken off by integers first, so that float32 holds angles within pi/4 only.

    Without the split the rounding of an angle near pi costs 2.9e-7; with it 8.6e-8.
    """
    quadrant = ((turns >> 61) + 1) >> 1
    angles = (turns - (quadrant << 62)).to(torch.float32) * RADIANS_PER_UNIT
    cos, sin = angles.cos(), angles.sin()
    swap = (quadrant & 1) == 1
    cos, sin = torch.where(swap, sin, cos), torch.where(swap, cos, sin)
    cos = torch.where(((quadrant + 1) & 2) == 2, -cos, cos)
    sin = torch.where((quadrant & 2) == 2, -sin, sin)
    if isinstance(amplitude, Tensor) or amplitude != 1.0:
        cos, sin = cos * amplitude, sin * amplitude
    return cos, sin


def in_blocks(table: Callable[[Tensor], CosSin], positions: Tensor, planes: int, dtype: torch.dtype) -> CosSin:
    """table(positions), some rows at a time where the float64 intermediates would leave the cache: the same bits, a third of the time.

    On the CPU, 8,192 x 64: 8.7 ms at once, most of it page faults of fresh temporaries; 3.0 ms in blocks; on a machine with larger
    caches 2.2 ms and 1.5 ms.
    """
    count = positions.shape[:-1].numel()
    if positions.device.type != "cpu" or count * planes <= 2 * _BLOCK:
        return table(positions)
    values = _BLOCK * torch.get_num_threads()
    flat = positions.reshape(count, positions.shape[-1])
    cos = torch.empty((flat.shape[0], planes), dtype=dtype)
    sin = torch.empty_like(cos)
    rows = max(1, values // planes)
    for start in range(0, flat.shape[0], rows):
        block = slice(start, start + rows)
        block_cos, block_sin = table(flat[block])
        cos[block].copy_(block_cos)
        sin[block].copy_(block_sin)
    return cos.view(*positions.shape[:-1], planes), sin.view(*positions.shape[:-1], planes)
