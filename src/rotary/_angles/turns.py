"""Exact angles: position x frequency in fixed-point turns.

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
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .._constants import Constants
from .._torch import jit_tracing

# floor(2^320 / (2 pi)): the digits of 1/(2 pi), more than any float32 frequency can ask for. Compared with mpmath in the tests.
ONE_TURN = 0x28BE60DB9391054A7F09D5F47D4D377036D8A5664F10E4107F9458EAF7AEF1586DC91B8E909374B8
_ONE_TURN_BITS = 320

_TURN_BITS = 64  # of high: 2^64 units are one turn
_EXTRA_BITS = 31  # of low, which float64 tables need
_EXTRA_MASK = (1 << _EXTRA_BITS) - 1
_GUARD_BITS = 24  # below low, so that the product with a 24-bit mantissa is right in the last bit of low
_GUARD_MASK = (1 << _GUARD_BITS) - 1

FAR = 1 << 31
"""The largest |position| for which one word gives float32 tables within 3.1e-8; beyond it two words do."""


def turns_per_token(
    inv_freq: Tensor, divisor: float = 1.0, *, traced: bool | None = None, powers: Constants | None = None
) -> tuple[Tensor, Tensor]:
    """The two words (high, low) of inv_freq / (2 pi divisor), each int64 and shaped like inv_freq, a float32 tensor [rad/token].

    A float32 number is mantissa x 2^exponent, the mantissa an integer of 24 bits. 2^exponent / (2 pi divisor) comes from a table of
    119 fractional bits terms from Python integers, never from a rounded 1/(2 pi); the product is integer arithmetic on any device.
    traced: the answer of tracing(), if the caller has it. powers: turns_of_powers_of_two(divisor), if the caller has it: torch.compile
    ignores caches, and takes ten seconds to trace how it is made.
    """
    powers = turns_of_powers_of_two(divisor) if powers is None else powers
    mantissa, exponent = _mantissa_and_exponent(inv_freq)
    top, middle, guard = powers.on(inv_freq.device, traced=traced)[:, exponent].unbind(0)
    carry = (mantissa * guard) >> _GUARD_BITS
    low = mantissa * middle + carry  # below 2^56
    return mantissa * top + (low >> _EXTRA_BITS), low & _EXTRA_MASK


def _mantissa_and_exponent(x: Tensor) -> tuple[Tensor, Tensor]:
    """The signed integer of 24 bits and the biased exponent of float32 numbers, int64: x = mantissa 2^(max(exponent, 1) - 150)."""
    if jit_tracing():  # which records no view of another dtype
        half_to_one, power = torch.frexp(x)
        exponent = power.to(torch.int64) + 126
        mantissa = (half_to_one * 2.0**24).to(torch.int64) >> (1 - exponent).clamp(
            min=0
        )  # denormal numbers end in zeros
        return mantissa, torch.where(x.isfinite(), exponent.clamp(min=0), 0xFF)
    bits = x.view(torch.int32).to(torch.int64)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    mantissa = torch.where(exponent > 0, fraction | 0x800000, fraction)
    return torch.where(bits < 0, -mantissa, mantissa), exponent


@functools.lru_cache(maxsize=64)
def turns_of_powers_of_two(divisor: float) -> Constants:
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
    """The two words of frequencies in float64, of all 53 bits of each, by Python's integers."""
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
    """value modulo 2^64, as an int64."""
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
    """turns() of positions (..., 1), or (..., P), one for each plane."""
    if low is None:
        return positions * high
    return positions * high + (positions >> _EXTRA_BITS) * low + (((positions & _EXTRA_MASK) * low) >> _EXTRA_BITS)


def sum_of_turns(positions: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Angles of dense directions, whole turns dropped: positions (..., seq, n) int64 x words (P, n) or (heads, P, n) -> (..., seq, P).

    The products wrap, so that the sum over coordinates is exact but for the last bit of each word.
    """
    terms = [
        turns_along(positions[..., c, None], high[..., None, :, c], low[..., None, :, c])
        for c in range(positions.shape[-1])
    ]
    return torch.stack(terms).sum(0)
