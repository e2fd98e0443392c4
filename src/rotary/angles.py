"""Exact angles: fixed-point turns -> cos, sin.

A frequency is held as the fraction of a full turn that one token adds, an integer in units of 2^-95 turn cut into two words

    turns per token = high * 2^-64  +  low * 2^-95          high: int64 (wraps)    low: 31 bits, 0 <= low < 2^31

so that position x frequency is integer multiplication, and dropping whole turns is the wrap-around of int64, both exact. The only
errors left are the rounding of the frequency to its last bit and the final cos and sin in float64: for every |position| <= 2^31

    float32 tables, from one word       |cos, sin - truth| <= 3.1e-8    (correct rounding alone: 2.98e-8)
    float64 tables, from both words     about 5e-16
    float32 arithmetic throughout       <= 1.0e-7    where the device has no float64

A float32 product position x frequency, as is usual, is off by 5e-8 x position: 5e-2 at a million tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from .constants import Constants, has_float64, tracing

# floor(2^320 / (2 pi)): the digits of 1/(2 pi), more than any float32 frequency can ask for. Held against mpmath in the tests.
ONE_TURN = 0x28BE60DB9391054A7F09D5F47D4D377036D8A5664F10E4107F9458EAF7AEF1586DC91B8E909374B8
_ONE_TURN_BITS = 320

_LOW_BITS = 31
_LOW_MASK = (1 << _LOW_BITS) - 1
_MANTISSA_BITS = 24
_MANTISSA_MASK = (1 << _MANTISSA_BITS) - 1
RADIANS_PER_UNIT = 2.0 * math.pi * 2.0**-64
_BLOCK = 1 << 15  # values of a block for each thread: 256 KB in float64, the least that torch gives one


def turns_per_token(inv_freq: Tensor, divisor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The two words (high, low) of inv_freq / (2 pi divisor), each int64 and shaped like inv_freq, a float32 tensor [rad/token].

    Integer arithmetic on mantissa and exponent, on any device: mantissa x (2^exponent / (2 pi divisor)), the second factor from a
    table of 119 fractional bits made from Python integers. Never from a rounded 1/(2 pi).
    """
    bits = inv_freq.view(torch.int32).to(torch.int64)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    mantissa = torch.where(exponent > 0, fraction | 0x800000, fraction)
    mantissa = torch.where(bits < 0, -mantissa, mantissa)
    c_high, c_mid, c_low = _turns_of_powers_of_two(divisor).on(inv_freq.device)[:, exponent].unbind(0)
    carry = (mantissa * c_low) >> _MANTISSA_BITS
    middle = mantissa * c_mid + carry  # below 2^56
    return mantissa * c_high + (middle >> _LOW_BITS), middle & _LOW_MASK


@functools.lru_cache(maxsize=64)
def _turns_of_powers_of_two(divisor: float) -> Constants:
    """(3, 255) int64: 2^(exponent - 150) / (2 pi divisor) turns for each biased float32 exponent, cut at 2^-64, 2^-95, 2^-119."""
    fractional = 64 + _LOW_BITS + _MANTISSA_BITS
    words: list[tuple[int, int, int]] = []
    for exponent in range(255):
        power = Fraction(2) ** (max(exponent, 1) - 150 + fractional - _ONE_TURN_BITS)
        value = round(ONE_TURN * power / Fraction(divisor))
        high, rest = divmod(value, 1 << (_LOW_BITS + _MANTISSA_BITS))
        words.append((_wrap(high), rest >> _MANTISSA_BITS, rest & _MANTISSA_MASK))
    return Constants(tuple(zip(*words, strict=True)), torch.int64)


def _wrap(value: int) -> int:
    """The int64 that value is, modulo 2^64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def in_one_word(high: Tensor, low: Tensor) -> Tensor:
    """Turns per token in units of 2^-64 turn, rounded: all that float32 tables need."""
    return high + (low >> (_LOW_BITS - 1))


def turns(positions: Tensor, high: Tensor, low: Tensor, dtype: torch.dtype) -> Tensor:
    """Angles as int64 in units of 2^-64 turn, whole turns dropped: positions (...) int64 x words (..., P) -> (..., P).

    float64 tables are worth both words, split so that no product leaves int64 for any int64 position; float32 tables one.
    """
    positions = positions[..., None]
    if dtype != torch.float64:
        return positions * in_one_word(high, low)
    return positions * high + (positions >> _LOW_BITS) * low + (((positions & _LOW_MASK) * low) >> _LOW_BITS)


def cos_sin_of_turns(turns: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """amplitude x (cos, sin) of angles in units of 2^-64 turn, computed in float64 and rounded once to dtype.

    amplitude is a number or a tensor that broadcasts against the angles.
    """
    if not has_float64(turns.device):
        return cos_sin_without_float64(turns, amplitude)
    angles = turns.to(torch.float64).mul_(RADIANS_PER_UNIT)
    return cos_sin_of_angles(angles, dtype, amplitude)


def cos_sin_of_angles(angles: Tensor, dtype: torch.dtype, amplitude: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """amplitude x (cos, sin) of angles [rad] in their own dtype, rounded once to dtype. The memory of angles is used up."""
    cos = angles.cos()
    if isinstance(amplitude, Tensor) or amplitude != 1.0:
        return (cos * amplitude).to(dtype), (angles.sin_() * amplitude).to(dtype)
    return cos.to(dtype), angles.sin_().to(dtype)


def cos_sin_without_float64(turns: Tensor, amplitude: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The same in float32: the quadrant by integers first, so that float32 sees angles within pi/4 only.

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


def in_blocks(
    tables: Callable[[Tensor], tuple[Tensor, Tensor]], positions: Tensor, planes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """tables(positions), some rows at a time where the float64 intermediates would leave the cache: the same bits, a third of the time.

    On the CPU, 8,192 x 64: 8.7 ms at once, most of it page faults of fresh temporaries; 3.0 ms in blocks; on a machine with larger
    caches 2.2 ms and 1.5 ms.
    """
    if tracing() or positions.device.type != "cpu" or positions.numel() * planes <= 2 * _BLOCK:
        return tables(positions)
    values = _BLOCK * torch.get_num_threads()
    flat = positions.reshape(-1)
    cos = torch.empty((flat.shape[0], planes), dtype=dtype)
    sin = torch.empty_like(cos)
    rows = max(1, values // planes)
    for start in range(0, flat.shape[0], rows):
        block = slice(start, start + rows)
        block_cos, block_sin = tables(flat[block])
        cos[block].copy_(block_cos)
        sin[block].copy_(block_sin)
    return cos.view(*positions.shape, planes), sin.view(*positions.shape, planes)
