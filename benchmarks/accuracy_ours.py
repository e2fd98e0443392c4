"""Our own tables, at every position that is common and at sixty thousand that are not, under every scheme.

The judge is long double (64 bits of mantissa), itself judged by mpmath: integers make the angle, no float does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np
import torch

from rotary import RotaryEmbedding
from rotary.scaling import (
    NTK,
    Clipped,
    DynamicNTK,
    Gains,
    Linear,
    Llama3,
    LongRoPE,
    NTKByParts,
    NTKMixed,
    Power,
    Proportional,
    Resonance,
    Truncated,
    YaRN,
)
from rotary.scaling.scheme import Scheme

DIM, WINDOW = 128, 4096
PLANES = DIM // 2
EXHAUSTIVE, SAMPLED = 2**17, 60_000
BASES = (10_000, 500_000, 1_000_000)
BOUND = 0.52 * 2.0**-24
"""Of |error| for amplitudes to 1: half a unit in the last place below 1, and the little that the angle adds."""
SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "plain": (),
    "Linear(4)": (Linear(4.0),),
    "NTK(4)": (NTK(4.0),),
    "DynamicNTK(2)": (DynamicNTK(2.0, WINDOW),),
    "NTKByParts(4)": (NTKByParts(4.0, WINDOW),),
    "YaRN(32)": (YaRN(32.0, WINDOW),),
    "Llama3(8)": (Llama3(8.0, 8192),),
    "LongRoPE(32)": (
        LongRoPE([1.0 + i / 64 for i in range(PLANES)], [1.0 + i for i in range(PLANES)], WINDOW, factor=32.0),
    ),
    "Proportional(0.25)": (Proportional(0.25),),
    "NTKMixed(4)": (NTKMixed(4.0),),
    "Power(0.1)": (Power(0.1),),
    "Truncated": (Truncated(WINDOW),),
    "Clipped(20)": (Clipped(20),),
    "Gains": (Gains([0.5 + i / PLANES for i in range(PLANES)]),),
    "YaRN(4), Resonance": (YaRN(4.0, WINDOW), Resonance()),
}


@dataclass(frozen=True)
class Found:
    """name, values looked at, largest |error|, its bound, and the share of values that are the correctly rounded ones."""

    name: str
    values: int
    worst: float
    bound: float
    rounded: float


def bound(amplitude: float) -> float:
    """The bound of decision 1: 0.52 of a unit in the last place of the binade above the amplitude."""
    return BOUND * 2.0 ** max(0, int(np.ceil(np.log2(amplitude))))


def per_token(frequency: float) -> int:
    """frequency / 2 pi in units of 2^-128 turn, from integers."""
    with mpmath.workdps(120):
        exact = Fraction(frequency)
        return int(
            mpmath.nint(mpmath.mpf(exact.numerator) / exact.denominator / (2 * mpmath.pi) * mpmath.mpf(2) ** 128)
        )


def truth(positions: np.ndarray, frequency: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin in long double of one plane, off by less than 1e-18."""
    if abs(int(positions.max())) <= 2**24 and int(positions.min()) >= 0:  # the product itself is exact in 64 bits
        angle = positions.astype(np.longdouble) * np.longdouble(frequency)
    else:
        step = per_token(frequency)
        turns = np.array([(int(p) * step % 2**128) >> 64 for p in positions], dtype=np.uint64)
        angle = (
            turns.astype(np.longdouble)
            / np.longdouble(2) ** 64
            * (2 * np.longdouble("3.14159265358979323846264338327950288"))
        )
    return np.cos(angle), np.sin(angle)


def judge_is_right() -> float:
    """Largest distance of the judge from mpmath, at positions of both kinds."""
    worst, frequencies = 0.0, RotaryEmbedding(DIM, base=500_000).inv_freq.tolist()
    for positions in (np.array([1, 4097, 131_071]), np.array([2**24 + 1, 2**31 - 1, -(2**31)])):
        for frequency in frequencies[::9]:
            cos, sin = truth(positions, frequency)
            for i, p in enumerate(positions):
                with mpmath.workdps(80):
                    exact = mpmath.cos_sin(mpmath.mpf(int(p)) * mpmath.mpf(frequency))
                    for ours, right in zip((cos[i], sin[i]), exact, strict=True):
                        parts = float(ours), float(ours - np.longdouble(float(ours)))
                        worst = max(worst, abs(float(mpmath.mpf(parts[0]) + mpmath.mpf(parts[1]) - right)))
    return worst


def compare(
    name: str, rope: RotaryEmbedding, positions: np.ndarray, frequencies: list[float], length: int | None
) -> Found:
    amplitude, p = rope.attention_factor, torch.from_numpy(positions)
    if length is not None:
        amplitude = float(scaled(rope, length)[1])
    cos, sin = (t.numpy() for t in rope.cos_sin(p, length=length))
    worst, right = 0.0, 0
    for j, frequency in enumerate(frequencies):
        for given, exact in zip((cos[:, j], sin[:, j]), truth(positions, frequency), strict=True):
            wanted = exact * np.longdouble(amplitude)
            worst = max(worst, float(np.abs(given.astype(np.longdouble) - wanted).max()))
            right += int((given == wanted.astype(np.float32)).sum())
    values = 2 * len(positions) * len(frequencies)
    return Found(name, values, worst, bound(amplitude), right / values)


def scaled(rope: RotaryEmbedding, length: int) -> tuple[list[float], float]:
    """(frequencies as the float32 they are defined by, amplitude) of a scheme at a length."""
    inv_freq = torch.tensor([10_000.0 ** (-2 * j / DIM) for j in range(PLANES)], dtype=torch.float64)
    factor = 1.0
    for scheme in rope.scaling:
        inv_freq, f = scheme(inv_freq, base=10_000.0, dim=DIM, length=length)
        factor *= float(f)
    return inv_freq.float().tolist(), factor


def exhaustive(step: int = 1) -> Iterator[Found]:
    """Every position from 0 to 2^17, for three bases."""
    for base in BASES:
        rope = RotaryEmbedding(DIM, base=base)
        yield compare(f"{base:,}", rope, np.arange(0, EXHAUSTIVE + 1, step), rope.inv_freq.tolist(), None)


def hard() -> np.ndarray:
    """Where arithmetic breaks: around 2^24 and 2^31, and positions where some plane comes nearest to a zero of cos."""
    found = {sign * n + d for sign in (1, -1) for n in (2**24, 2**31 - 1) for d in (-1, 0, 1)} - {2**31, -(2**31) - 1}
    frequencies = RotaryEmbedding(DIM).inv_freq.double()
    for frequency in frequencies[1:20]:
        odd = 2 * torch.arange(200_000) + 1
        place = odd * (torch.pi / 2) / frequency
        nearest = (place - place.round()).abs().argsort()[:3]
        found |= {int(n) for n in place.round()[nearest] if n < 2**31}
    return np.array(sorted(found))


def schemes(count: int = SAMPLED, names: Iterable[str] = SCHEMES) -> Iterator[Found]:
    """Signed positions to 2^31, log-uniform, and the hard ones, under every scheme."""
    rng = np.random.default_rng(7)
    drawn = (rng.choice((-1, 1), count) * 2 ** rng.uniform(0, 31, count)).astype(np.int64)
    positions = np.concatenate((drawn, hard()))
    for name in names:
        chain = SCHEMES[name]
        rope = RotaryEmbedding(DIM, scaling=chain or None)
        depends = any(isinstance(scheme, (DynamicNTK, LongRoPE)) for scheme in chain)
        length = (2**31) if depends else None
        frequencies = scaled(rope, length)[0] if length is not None else rope.inv_freq.tolist()
        yield compare(name, rope, positions, frequencies, length)
