"""Schemes by parts: fast planes are kept, slow planes interpolated, with a ramp between them. NTK-by-parts, YaRN, Llama 3."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._checks import flag, number, one_of
from .._types import Frequencies, Length
from .scheme import Scheme, check_factor, check_window, plane_indices, powers

Ramp = Literal["rotations", "planes"]


@dataclass(frozen=True, repr=False)
class NTKByParts(Scheme):
    """NTK-by-parts (Peng et al. 2023, arXiv:2309.00071, equations 17 to 20); r is the number of turns in the trained window:

        inv_freq' = (1 - g) inv_freq / factor + g inv_freq        g = clip((r - beta_slow) / (beta_fast - beta_slow), 0, 1)

    ramp="rotations" is the paper's, linear in r. ramp="planes" is linear in the index of the plane, between the planes of beta_fast
    and beta_slow turns, rounded outwards with `truncate`: this is what all published code does and checkpoints were trained with.
    In that code the ramp is reversed where all planes are on one side of it: if all turn faster than beta_fast in the window, all are
    divided, and if all turn slower than beta_slow, all are kept. That is computed, with a warning.
    On Llama-2 extended 16 times the two differ by up to a factor of 3.04 in a plane.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ramp: Ramp = "rotations"
    truncate: bool = True

    def __post_init__(self) -> None:
        check_factor(self.factor)
        check_window(self.original_max_position_embeddings)
        _check_order("beta_fast", self.beta_fast, "beta_slow", self.beta_slow)
        one_of("ramp", self.ramp, ("rotations", "planes"))
        flag("truncate", self.truncate)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        if self.ramp == "rotations":
            keep = kept_by_rotations(inv_freq, self.original_max_position_embeddings, self.beta_slow, self.beta_fast)
        else:
            keep = kept_by_plane_indices(inv_freq, self, base, dim)
        return (1.0 - keep) * (inv_freq / self.factor) + keep * inv_freq, 1.0


@dataclass(frozen=True, repr=False)
class YaRN(Scheme):
    """YaRN (Peng et al. 2023, arXiv:2309.00071): NTKByParts with ramp="planes", and an attention factor (section 3.4, equation 22).

        attention_factor = 0.1 ln factor + 1, or m(mscale) / m(mscale_all_dim) where both are given, m(k) = 0.1 k ln factor + 1

    attention_factor: replaces that formula when it is given. (The config key `attn_factor` instead multiplies 0.1 ln factor + 1.)
    mscale and mscale_all_dim: one without the other, or one that is zero, has no effect, as in transformers. DeepSeek's models also
    multiply the softmax by m(mscale_all_dim)^2: that is a temperature, see rotary.scaling.temperature. config: rope_type "yarn".
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self) -> None:
        check_factor(self.factor)
        check_window(self.original_max_position_embeddings)
        _check_order("beta_fast", self.beta_fast, "beta_slow", self.beta_slow)
        flag("truncate", self.truncate)
        if self.attention_factor is not None:
            number("attention_factor", self.attention_factor)
        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), at_least=0.0)

    def amplitude(self) -> float:
        """The attention factor: the field, or the value that follows from the other fields."""
        if self.attention_factor is not None:
            return float(self.attention_factor)
        if self.mscale and self.mscale_all_dim:
            return float(mscale(self.factor, self.mscale) / mscale(self.factor, self.mscale_all_dim))
        return mscale(self.factor)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        keep = kept_by_plane_indices(inv_freq, self, base, dim)
        return (1.0 - keep) * (inv_freq / self.factor) + keep * inv_freq, self.amplitude()

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        low, high = ramp_of_planes(self, base, dim)
        keep = 1 - ((plane_indices(inv_freq) - low) / (high - low)).clamp(0, 1)
        powers_of_base = powers(base, dim, inv_freq.device)
        slowed = 1.0 / (self.factor * powers_of_base)
        return slowed * (1 - keep) + 1.0 / powers_of_base * keep, self.amplitude()


@dataclass(frozen=True, repr=False)
class Llama3(Scheme):
    """Llama 3.1 and later (Meta, llama-models, models/llama3/model.py): NTKByParts in rotations, between 1 and 4 turns.

    Planes of more than high_freq_factor turns in the trained window are kept, those of fewer than low_freq_factor are divided by
    factor. Equal bounds (Llama 4) make a step. config: rope_type "llama3".
    """

    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        check_factor(self.factor)
        check_window(self.original_max_position_embeddings)
        _check_order("high_freq_factor", self.high_freq_factor, "low_freq_factor", self.low_freq_factor)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        window = self.original_max_position_embeddings
        keep = kept_by_rotations(inv_freq, window, self.low_freq_factor, self.high_freq_factor)
        return (1.0 - keep) * (inv_freq / self.factor) + keep * inv_freq, 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        low, high, window = self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings
        wavelength = 2 * math.pi / inv_freq
        slowed = torch.where(wavelength > window / low, inv_freq / self.factor, inv_freq)
        if high == low:  # transformers divides by zero here: nan where a wavelength is exactly the window
            return slowed, 1.0
        keep = (window / wavelength - low) / (high - low)
        between = (1 - keep) * slowed / self.factor + keep * slowed
        medium = ~(wavelength < window / high) * ~(wavelength > window / low)
        return torch.where(medium, between, slowed), 1.0


def mscale(factor: float, weight: float = 1.0) -> float:
    """0.1 weight ln factor + 1, and 1 for a factor that extends nothing: YaRN's sqrt(1/t), arXiv:2309.00071, equation 22."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def plane_of_rotations(rotations: float, base: float, dim: int, window: int) -> float:
    """The index (a real number) of the plane that makes this many turns in the window: dim ln(window / (2 pi n)) / (2 ln base)."""
    return (dim * math.log(window / (rotations * 2 * math.pi))) / (2 * math.log(base))


def ramp_of_planes(scheme: NTKByParts | YaRN, base: float, dim: int) -> tuple[float, float]:
    """(low, high): planes up to low are kept, planes from high on are interpolated; the reverse, with a warning, where low > high.

    Published code bounds low by 0 and high by dim - 1 (transformers, _compute_yarn_parameters), each on one side alone: a ramp that ends
    before the first plane, or begins after plane dim - 1, has low > high.
    """
    if base <= 1.0:
        raise ValueError(f"a ramp over planes needs base > 1, whose planes slow down, got base {base}")
    low = plane_of_rotations(scheme.beta_fast, base, dim, scheme.original_max_position_embeddings)
    high = plane_of_rotations(scheme.beta_slow, base, dim, scheme.original_max_position_embeddings)
    if scheme.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low > high:
        side, turns, effect = (
            ("more", scheme.beta_fast, f"divided by {scheme.factor:g}")
            if high > 0
            else ("fewer", scheme.beta_slow, "kept")
        )
        warnings.warn(
            f"all planes make {side} than {turns:g} turns in the window of {scheme.original_max_position_embeddings} tokens, and all are "
            f"{effect}, the reverse of what is meant: published code does so, which this follows",
            stacklevel=2,
        )
    return (low, high + 0.001) if low == high else (low, high)


def kept_by_rotations(inv_freq: Tensor, window: int, slow: float, fast: float) -> Tensor:
    """1 for planes of at least `fast` turns in the window, 0 for at most `slow` turns, linear in the turns between."""
    turns = inv_freq * (window / (2.0 * math.pi))
    if slow == fast:
        return (turns >= fast).to(inv_freq.dtype)
    return ((turns - slow) / (fast - slow)).clamp(0.0, 1.0)


def kept_by_plane_indices(inv_freq: Tensor, scheme: NTKByParts | YaRN, base: float, dim: int) -> Tensor:
    """1 for planes up to that of beta_fast turns, 0 from that of beta_slow turns on, linear in the index between."""
    low, high = ramp_of_planes(scheme, base, dim)
    return 1.0 - ((plane_indices(inv_freq) - low) / (high - low)).clamp(0.0, 1.0)


def _check_order(fast_name: str, fast: float, slow_name: str, slow: float) -> None:
    if number(fast_name, fast) < number(slow_name, slow):
        raise ValueError(f"{fast_name} must not be below {slow_name}, got {fast} and {slow}")
