"""Exact values, from mpmath and plain Python, without torch and without this package: the judge of the numbers in these tests.

Frequencies are the float32 values that a module shows; all later arithmetic has 60 digits or more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import mpmath

mpmath.mp.dps = 60


def inv_freq(dim: int, base: float = 10000.0, factor: float = 1.0) -> list[mpmath.mpf]:
    """base' ** (-2i / dim) with base' = base * factor ** (dim / (dim - 2))."""
    rescaled = mpmath.mpf(base) * (mpmath.mpf(factor) ** (mpmath.mpf(dim) / (dim - 2)) if factor != 1 else 1)
    return [rescaled ** (-mpmath.mpf(2 * i) / dim) for i in range(dim // 2)]


def cos_sin(position: int, frequency: float, divisor: float = 1.0) -> tuple[mpmath.mpf, mpmath.mpf]:
    angle = _exact(Fraction(position) * Fraction(frequency) / Fraction(divisor))
    return mpmath.cos(angle), mpmath.sin(angle)


def table(
    positions: Sequence[int], frequencies: Sequence[float], divisor: float = 1.0
) -> list[list[tuple[mpmath.mpf, mpmath.mpf]]]:
    return [[cos_sin(p, f, divisor) for f in frequencies] for p in positions]


def zeta(dim: int) -> list[mpmath.mpf]:
    return [(2 * i + mpmath.mpf(4) / 10 * dim) / (mpmath.mpf(14) / 10 * dim) for i in range(dim // 2)]


def xpos_scale(position: int, dim: int, scale_base: float) -> list[mpmath.mpf]:
    return [z ** (mpmath.mpf(position) / mpmath.mpf(scale_base)) for z in zeta(dim)]


def rotated(x: Sequence[float], pairs: Sequence[tuple[mpmath.mpf, mpmath.mpf]], interleaved: bool) -> list[mpmath.mpf]:
    """One head at one position, channels past the planes untouched."""
    planes, y = len(pairs), [mpmath.mpf(v) for v in x]
    for j, (cos, sin) in enumerate(pairs):
        a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + planes)
        y[a], y[b] = mpmath.mpf(x[a]) * cos - mpmath.mpf(x[b]) * sin, mpmath.mpf(x[b]) * cos + mpmath.mpf(x[a]) * sin
    return y


def float32(value: mpmath.mpf) -> float:
    """Correctly rounded to float32 (round to nearest even); normal numbers and zero."""
    if value == 0:
        return 0.0
    exponent = max(int(mpmath.floor(mpmath.log(abs(value), 2))), -126) - 23
    return math.ldexp(int(mpmath.nint(mpmath.ldexp(value, -exponent))), exponent)


def _exact(value: Fraction) -> mpmath.mpf:
    with mpmath.workdps(120):
        return mpmath.mpf(value.numerator) / value.denominator
