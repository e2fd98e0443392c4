"""The truth of cos and sin from positions and float32 frequencies, without code of any implementation, and positions that are hard.

mpmath        60 digits, any position: the judge of last resort, some 30 us a value
long double   a position below 2^32 times a float32 frequency has at most 56 bits, so that the 64 of an 80-bit number hold it
              exactly; its cos and sin are then good to 1e-19, which mpmath judges. A hundred times faster: exhaustive tests use it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mpmath
import numpy as np

mpmath.mp.dps = 60
LONG_DOUBLE = np.finfo(np.longdouble).nmant >= 63  # not on Windows, nor on Apple's ARM machines
BLOCK = 1 << 11  # positions at a time: 2 MB for 64 planes
FURTHEST = 2**31

Pair = tuple[np.ndarray, np.ndarray]
Real = Any  # an mpmath.mpf, which is no type to a checker
Planes = Sequence[float] | Sequence[Real]


def by_mpmath(positions: Sequence[int], inv_freq: Planes) -> Pair:
    """Exact cos and sin (n, planes), rounded once to long double (float64 where there is none)."""
    exact = [[mpmath.cos_sin(mpmath.mpf(p) * f) for f in inv_freq] for p in positions]
    cos, sin = (np.array([[_rounded(v[part]) for v in row] for row in exact], np.longdouble) for part in (0, 1))
    return cos, sin


def each_by_mpmath(positions: Sequence[int], inv_freq: Sequence[float]) -> Pair:
    """The same for pairs of a position and a frequency, (n,): hard positions are hard for one plane."""
    exact = [mpmath.cos_sin(mpmath.mpf(p) * f) for p, f in zip(positions, inv_freq, strict=True)]
    cos, sin = (np.array([_rounded(pair[part]) for pair in exact], np.longdouble) for part in (0, 1))
    return cos, sin


def by_long_double(positions: np.ndarray, inv_freq: np.ndarray) -> Pair:
    """cos and sin (n, planes) of int64 positions (n,) and float32 frequencies (planes,)."""
    assert LONG_DOUBLE and inv_freq.dtype == np.float32 and np.abs(positions).max() <= FURTHEST
    angles = positions.astype(np.longdouble)[:, None] * inv_freq.astype(np.longdouble)
    return np.cos(angles), np.sin(angles)


def blocks(positions: np.ndarray, inv_freq: np.ndarray) -> Iterator[tuple[np.ndarray, Pair]]:
    """Positions and their truth, a block at a time, made by two threads."""
    parts = [positions[i : i + BLOCK] for i in range(0, len(positions), BLOCK)]
    with ThreadPoolExecutor(2) as pool:
        yield from zip(parts, pool.map(lambda part: by_long_double(part, inv_freq), parts), strict=True)


def long_double_error(positions: np.ndarray, inv_freq: np.ndarray, values: int = 2000, seed: int = 0) -> float:
    """Largest distance of the long double judge from mpmath, over random pairs of a position and a plane."""
    draw = np.random.default_rng(seed)
    p, plane = draw.choice(positions, values), draw.integers(0, len(inv_freq), values)
    exact = [mpmath.cos_sin(mpmath.mpf(int(a)) * float(f)) for a, f in zip(p, inv_freq[plane], strict=True)]
    angles = p.astype(np.longdouble) * inv_freq[plane].astype(np.longdouble)
    return max(
        float(abs(_exactly(value) - pair[part]))
        for part, judged in enumerate((np.cos(angles), np.sin(angles)))
        for value, pair in zip(judged, exact, strict=True)
    )


def signed_log_uniform(n: int, seed: int) -> np.ndarray:
    """int64 (n,) with |position| uniform in its logarithm up to 2^31."""
    draw = np.random.default_rng(seed)
    return (draw.choice((-1, 1), n) * np.exp2(draw.uniform(0, 31, n))).astype(np.int64)


def upper_half(magnitude: int, n: int, seed: int) -> list[int]:
    """n positions in magnitude / 2 .. magnitude, the magnitude itself among them."""
    chosen = random.Random(seed + magnitude).sample(range(magnitude // 2, magnitude), n - 1)
    return sorted([*chosen, magnitude])


HARD = (0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, 2**31, -(2**31))


def nearest_to_quarter_turns(frequency: float) -> list[int]:
    """Positions to 2^31 whose angle is nearer to a whole number of quarter turns than that of any smaller one: cos or sin is close to 0.

    The denominators of the convergents of frequency / (pi / 2).
    """
    if frequency == 0.0:
        return []
    rest, before, last = 2 * mpmath.mpf(abs(frequency)) / mpmath.pi, 0, 1
    result: list[int] = []
    while last <= FURTHEST:
        result.append(last)
        rest -= mpmath.floor(rest)
        if rest == 0:
            break
        rest = 1 / rest
        before, last = last, int(mpmath.floor(rest)) * last + before
    return sorted(set(result))


def _rounded(value: Real) -> np.longdouble:
    high = float(value)
    return np.longdouble(high) + np.longdouble(float(value - high))


def _exactly(value: np.longdouble) -> Real:
    high = float(value)
    return mpmath.mpf(high) + mpmath.mpf(float(value - np.longdouble(high)))
