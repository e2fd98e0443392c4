"""Schemes with a rule for each plane: proportional, truncated and power bases, clipping, resonance, gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .._checks import describe, number, one_of
from .._constants import Constants
from .._types import Frequencies, Length
from .scheme import Scheme, check_factor, check_planes, check_window, number_list, plane_indices


@dataclass(frozen=True, repr=False)
class Proportional(Scheme):
    """p-RoPE (Barbero et al. 2024, arXiv:2410.06205): the int(p dim / 2) fastest planes are kept, all others do not rotate.

    Here dim is the whole head, and the frequencies are base^(-2i / head_dim): unlike the partial_rotary_factor of other configs,
    which squeezes the full spectrum into int(p head_dim) channels (RotaryEmbedding(dim=int(p head_dim)), no scheme). Gemma 4.
    factor divides the frequencies that are kept. config: rope_type "proportional".
    """

    partial_rotary_factor: float = 1.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if number("partial_rotary_factor", self.partial_rotary_factor, at_least=0.0) > 1.0:
            raise ValueError(f"partial_rotary_factor must be between 0 and 1, got {self.partial_rotary_factor}")
        check_factor(self.factor)

    def turning(self, dim: int) -> int:
        """How many of the dim/2 planes rotate."""
        return int(self.partial_rotary_factor * dim // 2)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return torch.where(plane_indices(inv_freq) < self.turning(dim), inv_freq, 0.0) / self.factor, 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        n = self.turning(dim)
        # Only the powers that transformers computes: the last bit of a power depends on how many are computed at one_turn.
        turning = 1.0 / base ** (torch.arange(0, 2 * n, 2, dtype=torch.float32, device=inv_freq.device) / dim)
        return torch.cat((turning, turning.new_zeros(dim // 2 - n))) / self.factor, 1.0


@dataclass(frozen=True, repr=False)
class Truncated(Scheme):
    """Giraffe's truncated basis (Pal et al. 2023, arXiv:2308.10882, section 3.3); L is the trained window:

        wavelength <= L                  kept
        L < wavelength <= dropped x L    all get one wavelength, held x L
        wavelength > dropped x L         frequency 0: the plane does not turn

    held, dropped: wavelengths in units of L. Planes without a full turn in training thus show no new angle in contexts of up to
    held / dropped x L tokens. Needs finetuning.
    """

    original_max_position_embeddings: int
    held: float = 16.0
    dropped: float = 8.0

    def __post_init__(self) -> None:
        check_window(self.original_max_position_embeddings)
        number("held", self.held)
        number("dropped", self.dropped, at_least=1.0)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        one_turn = 2.0 * math.pi / self.original_max_position_embeddings
        slow = torch.where(inv_freq >= one_turn / self.dropped, one_turn / self.held, torch.zeros_like(inv_freq))
        return torch.where(inv_freq >= one_turn, inv_freq, slow), 1.0


@dataclass(frozen=True, repr=False)
class Power(Scheme):
    """Giraffe's power basis (Pal et al. 2023, arXiv:2308.10882, section 3.2): inv_freq[i] (1 - i / (dim/2))^exponent."""

    exponent: float

    def __post_init__(self) -> None:
        number("exponent", self.exponent)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return inv_freq * torch.exp(torch.log1p(plane_indices(inv_freq) / -(dim // 2)) * self.exponent), 1.0


@dataclass(frozen=True, repr=False)
class Clipped(Scheme):
    """Clipped RoPE (arXiv:2602.05258, "CoPE"): the last `planes` frequencies fade to zero along half a cosine, or are set to zero.

    taper="cosine": inv_freq x (1 + cos t) / 2, t runs from 0 to pi over these planes        taper="hard": inv_freq x 0
    """

    planes: int = 20
    taper: Literal["cosine", "hard"] = "cosine"

    def __post_init__(self) -> None:
        if isinstance(self.planes, bool) or not isinstance(self.planes, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"planes must be an integer, got {describe(self.planes)}")
        if self.planes < 1:
            raise ValueError(f"planes must be >= 1, got {self.planes}")
        one_of("taper", self.taper, ("cosine", "hard"))

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        if self.planes > dim // 2:
            raise ValueError(f"planes must be <= {dim // 2} (dim/2 with dim {dim}), got {self.planes}")
        steps = plane_indices(inv_freq) - (dim // 2 - self.planes)
        if self.taper == "hard":
            return torch.where(steps >= 0, 0.0, inv_freq), 1.0
        t = steps.clamp(min=0.0) * (math.pi / max(self.planes - 1, 1))
        return inv_freq * (0.5 + 0.5 * torch.cos(t)), 1.0


@dataclass(frozen=True, repr=False)
class Resonance(Scheme):
    """Resonance RoPE (Wang et al. 2024, arXiv:2403.00071): wavelengths are rounded to whole tokens, 2 pi / round(2 pi / inv_freq).

    A plane then repeats exactly: if it makes a full turn in the trained window, no later position shows a new angle. Chain it last.
    """

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        wavelength = (2.0 * math.pi / inv_freq).round().clamp(min=1.0)
        return 2.0 * math.pi / wavelength, 1.0


@dataclass(frozen=True, repr=False)
class Gains(Scheme):
    """One factor per plane: inv_freq[i] x gains[i]. For learned or searched spectra."""

    gains: Sequence[float]
    _gains: Constants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = number_list("gains", self.gains, at_least=0.0)
        object.__setattr__(self, "gains", values)
        object.__setattr__(self, "_gains", Constants(values, torch.float64))

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_planes("gains", self.gains, dim)
        return inv_freq * self._gains.on(inv_freq.device).to(inv_freq.dtype), 1.0
