"""Spectra as numbers: that of a config, plain powers of a base, the difference of two, and their names in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ..config import Arguments
from ..scaling import Scheme
from ..scaling.scheme import described

AGREE = 2.0**-16
"""Relative. Formulas in float32 are off by up to 50 units in the last place, 3e-6 (docs/configs.md); bfloat16 rounds by up to 2^-9."""


def spectrum_of(arguments: Arguments, length: int | None = None) -> tuple[Tensor, float]:
    """inv_freq (dim/2,) float64 [rad/token] and the attention factor that a config describes, for a context of `length` tokens."""
    return spectrum(arguments.base, arguments.dim, arguments.scaling, length)


def spectrum(base: float, dim: int, scaling: tuple[Scheme, ...], length: int | None = None) -> tuple[Tensor, float]:
    """inv_freq (dim/2,) float64 and the attention factor of schemes, applied left to right."""
    inv_freq, factor = progression(base, dim, dim // 2), 1.0
    for scheme in scaling:
        inv_freq, own_factor = scheme(inv_freq, base=base, dim=dim, length=length)
        factor *= float(own_factor)
    return inv_freq, factor


def progression(base: float, divisor: float, planes: int) -> Tensor:
    """base^(-2j / divisor) (planes,) float64."""
    return torch.tensor([base ** (-2 * j / divisor) for j in range(planes)], dtype=torch.float64, device="cpu")


def relative(measured: Tensor, expected: Tensor) -> Tensor:
    """|measured / expected - 1| for each plane; planes at rest must be at rest in both."""
    error = (measured - expected).abs()
    return torch.where(error == 0, 0.0, error / expected.abs().clamp(min=1e-40))


def close(measured: Tensor, expected: Tensor, tolerance: float) -> bool:
    return len(measured) == len(expected) and bool((relative(measured, expected) <= tolerance).all())


def falling_at(value: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The argument between low and high, both positive, at which a falling function reaches the target: by bisection of the logarithm."""
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if value(middle) > target else (low, middle)
    return high


def named(scaling: tuple[Scheme, ...]) -> str:
    """ "YaRN(factor=4.0, ...)", several with "then" between, or "no scheme"; lists by their length.

    >>> from rotary.scaling import Linear, Resonance
    >>> named((Linear(4.0), Resonance())), named(())
    ('Linear(factor=4) then Resonance()', 'no scheme')
    """
    return " then ".join(described(scheme, _value) for scheme in scaling) or "no scheme"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"({len(cast('tuple[float, ...]', value))} values)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def written(value: float) -> str:
    """A base as text: four digits if it is within 1e-5 of them, which float32 frequencies do not resolve, else six.

    >>> written(500003.2), written(123456.0)
    ('500,000', '123,456')
    """
    rounded = float(f"{value:.4g}")
    return f"{rounded if abs(value - rounded) <= 1e-5 * value else float(f'{value:.6g}'):,.10g}"
