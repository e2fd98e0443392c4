"""The schemes as their papers print them, in mpmath at 60 digits: no torch, nothing of the package.

Each takes frequencies [rad/token], a list of mpf, and returns as many.
"""

from __future__ import annotations

from collections.abc import Sequence

import mpmath
from mpmath import mpf

mpmath.mp.dps = 60
Planes = list[mpf]


def progression(dim: int, base: float) -> Planes:
    """Su et al. 2021, section 3.2.2."""
    return [mpf(base) ** (-mpf(2 * i) / dim) for i in range(dim // 2)]


def turns(theta: mpf, window: int) -> mpf:
    return theta * window / (2 * mpmath.pi)


def linear(planes: Planes, factor: float) -> Planes:
    """Chen et al. 2023, equation 4."""
    return [theta / mpf(factor) for theta in planes]


def change_of_base(dim: int, base: float, factor: mpf) -> Planes:
    """Peng et al. 2023, appendix A.1: the base times factor^(dim / (dim - 2))."""
    return progression(dim, mpf(base) * mpf(factor) ** (mpf(dim) / (dim - 2)))


def dynamic_factor(factor: float, length: int, window: int) -> mpf:
    return mpf(factor) * max(length, window) / window - (mpf(factor) - 1)


def by_turns(planes: Planes, factor: float, window: int, slow: float, fast: float) -> Planes:
    """Peng et al. 2023, equations 17 to 20; Llama 3 with slow = 1 and fast = 4."""
    result = []
    for theta in planes:
        r = turns(theta, window)
        gamma = mpf(0) if r < slow else mpf(1) if r > fast else (r - slow) / (mpf(fast) - slow)
        result.append((1 - gamma) * theta / mpf(factor) + gamma * theta)
    return result


def crossing(n: float, dim: int, base: float, window: int) -> mpf:
    """The plane that turns n times in the window: D(n) of the YaRN code."""
    return dim * mpmath.log(mpf(window) / (2 * mpmath.pi * mpf(n))) / (2 * mpmath.log(mpf(base)))


def by_planes(
    dim: int, base: float, factor: float, window: int, fast: float = 32, slow: float = 1, truncate: bool = True
) -> Planes:
    """Peng et al. 2023 as their code has it: the ramp over plane indices."""
    low, high = crossing(fast, dim, base, window), crossing(slow, dim, base, window)
    if truncate:
        low, high = mpmath.floor(low), mpmath.ceil(high)
    low, high = max(low, mpf(0)), min(high, mpf(dim - 1))
    if low == high:
        high += mpf("0.001")
    result = []
    for i, theta in enumerate(progression(dim, base)):
        ramp = min(max((i - low) / (high - low), mpf(0)), mpf(1))
        result.append(theta / mpf(factor) * ramp + theta * (1 - ramp))
    return result


def temperature(factor: float, weight: float = 1.0) -> mpf:
    """sqrt(1/t), Peng et al. 2023, equation 22, with DeepSeek's weight."""
    return mpf(1) if factor <= 1 else mpf(weight) / 10 * mpmath.log(mpf(factor)) + 1


def searched(planes: Planes, factors: Sequence[float]) -> Planes:
    """Ding et al. 2024: each plane by a factor of its own."""
    return [theta / mpf(factor) for theta, factor in zip(planes, factors, strict=True)]


def searched_amplitude(factor: float, window: int) -> mpf:
    return mpf(1) if factor <= 1 else mpmath.sqrt(1 + mpmath.log(mpf(factor)) / mpmath.log(window))


def ulps(shown: float, exact: mpf) -> mpf:
    """|shown - exact| in units in the last place of float32 at exact; shown must be 0 where exact is."""
    if exact == 0:
        return mpf(0) if shown == 0 else mpf("inf")
    exponent = max(int(mpmath.floor(mpmath.log(abs(exact), 2))), -126) - 23
    return abs(mpf(shown) - exact) / mpmath.ldexp(mpf(1), exponent)
