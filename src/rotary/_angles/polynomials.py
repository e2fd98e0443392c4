"""The definition of cos, sin and exp in exact tables: polynomials in float64, one rounded operation after the other.

Every implementation of exact tables computes these and nothing else: the native library (_native/tables.cpp), the GPU kernel
(gpu_kernel.py) and the torch operations below. The coefficients, the order of the operations and the rounding after each of them are
the definition; a fused multiply-add would leave a rounding out. So the bits depend on no processor, instruction set or version of torch;
those of torch's own cos and sin do.

    turns, int64 in units of 2^-64 turn
    quarter = nearest quarter of a turn, rest = turns - quarter, both by integers
    x = rest x 2 pi 2^-64, within pi / 4          z = x^2
    sin x = x + x (z S(z))                        Taylor series to x^17
    cos x = 1 - (z / 2 - z (z C(z)))              Taylor series to x^16
    the quarter decides which of the two is cos, and the signs

The series are cut where the next term is below 2^-57. |error| <= 2^-52 before any amplitude. The largest error of 12 million values was
1.94e-16, that of torch's cos and sin of the same angles 4.6e-16 (python -m benchmarks.polynomials).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .._constants import Constants
from .._torch import jit_tracing
from .._types import CosSin

RADIANS_PER_UNIT = 2.0 * math.pi * 2.0**-64

SIN = tuple((-1) ** (n // 2) / math.factorial(n) for n in range(17, 2, -2))
"""1/17!, -1/15!, .., -1/3!: S, the highest power first."""
COS = tuple((-1) ** (n // 2) / math.factorial(n) for n in range(16, 3, -2))
"""1/16!, -1/14!, .., 1/4!: C, the highest power first."""

EXP = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))
"""1/13!, .., 1/1!, 1/0!: exp within ln(2) / 2, where the next term is below 2^-57."""
LOG2_E = 1.0 / math.log(2.0)
LN2_HIGH = float.fromhex("0x1.62e42fefa0000p-1")
"""ln 2 cut to 36 bits, so that a product with an exponent of 11 bits is exact."""
LN2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")
"""The rest: ln 2 = LN2_HIGH + LN2_LOW to 2^-92."""
EXP_LIMIT = 1100.0
"""Beyond it exp is infinite or 0; arguments are cut here, so that exponents stay in range."""

_EXPONENTS = 800
"""Half of EXP_LIMIT / ln 2, rounded up: |exponent| of each of the two factors of exp."""


def cos_sin(turns: Tensor) -> CosSin:
    """(cos, sin) in float64 of int64 angles in units of 2^-64 turn, of any shape."""
    quarter = (turns + (1 << 61)) >> 62
    x = (turns - (quarter << 62)).to(torch.float64).mul_(RADIANS_PER_UNIT)
    z = x * x
    s = _horner(z, SIN).mul_(z).mul_(x).add_(x)
    c = _horner(z, COS).mul_(z).mul_(z)
    c = 1.0 - z.mul_(0.5).sub_(c)
    swapped = (quarter & 1) == 1
    cos, sin = torch.where(swapped, s, c), torch.where(swapped, c, s)
    return torch.where(((quarter + 1) & 2) == 2, -cos, cos), torch.where((quarter & 2) == 2, -sin, sin)


def exp(x: Tensor) -> Tensor:
    """e^x in float64, within a unit in the last place or two; infinite or 0 beyond what float64 holds."""
    x = x.clamp(-EXP_LIMIT, EXP_LIMIT)
    k = (x * LOG2_E).add_(0.5).floor_()
    rest = (x - k * LN2_HIGH).sub_(k * LN2_LOW)
    power = k.to(torch.int64)
    half = power >> 1  # 2^power in two factors: one alone leaves float64 where the result does not
    return _horner(rest, EXP).mul_(_power_of_two(half)).mul_(_power_of_two(power - half))


def _horner(z: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = (z * coefficients[0]).add_(coefficients[1])
    for coefficient in coefficients[2:]:
        total.mul_(z).add_(coefficient)
    return total


def _power_of_two(power: Tensor) -> Tensor:
    """2^power in float64, of integers within _EXPONENTS."""
    if jit_tracing():  # which records no view of another dtype
        return _powers_of_two().on(power.device, traced=True)[power + _EXPONENTS]
    return ((power + 1023) << 52).view(torch.float64)


@functools.cache
def _powers_of_two() -> Constants:
    """2^-_EXPONENTS .. 2^_EXPONENTS."""
    return Constants(tuple(2.0**n for n in range(-_EXPONENTS, _EXPONENTS + 1)), torch.float64)
