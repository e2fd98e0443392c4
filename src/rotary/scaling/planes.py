"""Schemes that treat planes one by one: proportional, truncated and power bases, clipping, resonance, gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..arguments import number, one_of
from ..constants import Constants
from .scheme import (
    Frequencies,
    Length,
    Scheme,
    check_factor,
    check_planes,
    check_window,
    first_in_chain,
    numbers,
    planes,
)


@dataclass(frozen=True)
class Proportional(Scheme):
    """p-RoPE (Barbero et al. 2024, arXiv:2410.06205): the int(p dim / 2) fastest planes stay, all others do not turn at all.

    Here dim is the whole head, and the frequencies are base^(-2i / head_dim): unlike the partial_rotary_factor of other configs,
    which squeezes the full spectrum into int(p head_dim) channels (RotaryEmbedding(dim=int(p head_dim)), no scheme). Gemma 4.
    factor divides what is left. config: rope_type "proportional".
    """

    partial_rotary_factor: float = 1.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if number("partial_rotary_factor", self.partial_rotary_factor, at_least=0.0) > 1.0:
            raise ValueError(f"partial_rotary_factor must be between 0 and 1, got {self.partial_rotary_factor}")
        check_factor(self.factor)

    def turning(self, dim: int) -> int:
        """How many of the dim/2 planes turn."""
        return int(self.partial_rotary_factor * dim // 2)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return torch.where(planes(inv_freq) < self.turning(dim), inv_freq, 0.0) / self.factor, 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        n = self.turning(dim)
        otherwise, _ = self(inv_freq, base=base, dim=dim)
        # As many powers as theirs: the last bit of a power depends on how many are computed at once.
        theirs = 1.0 / base ** (torch.arange(0, 2 * n, 2, dtype=torch.float32, device=inv_freq.device) / dim)
        theirs = torch.cat((theirs, theirs.new_zeros(dim // 2 - n))) / self.factor
        return first_in_chain(inv_freq, theirs, otherwise, base, dim), 1.0


@dataclass(frozen=True)
class Truncated(Scheme):
    """Giraffe's truncated basis (Pal et al. 2023, arXiv:2308.10882, section 3.3), with L the trained window:

        wavelength <= L: kept        L < wavelength <= dropped L: a wavelength of held L        beyond: does not turn

    Planes that never came full circle in training turn so slowly that no length shows an angle not yet seen. Needs finetuning.
    """

    original_max_position_embeddings: int
    held: float = 16.0
    dropped: float = 8.0

    def __post_init__(self) -> None:
        check_window(self.original_max_position_embeddings)
        number("held", self.held)
        number("dropped", self.dropped, at_least=1.0)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        once = 2.0 * math.pi / self.original_max_position_embeddings
        slow = torch.where(inv_freq >= once / self.dropped, once / self.held, torch.zeros_like(inv_freq))
        return torch.where(inv_freq >= once, inv_freq, slow), 1.0


@dataclass(frozen=True)
class Power(Scheme):
    """Giraffe's power basis (Pal et al. 2023, arXiv:2308.10882, section 3.2): inv_freq[i] (1 - i / (dim/2))^exponent."""

    exponent: float

    def __post_init__(self) -> None:
        number("exponent", self.exponent)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return inv_freq * torch.exp(torch.log1p(planes(inv_freq) / -(dim // 2)) * self.exponent), 1.0


@dataclass(frozen=True)
class Clipped(Scheme):
    """Clipped RoPE (arXiv:2602.05258, "CoPE"): the last `planes` frequencies fade out along half a cosine, or are set to zero.

    taper="cosine": inv_freq x (1 + cos t) / 2, t from 0 to pi over these planes        taper="hard": inv_freq x 0
    """

    planes: int = 20
    taper: Literal["cosine", "hard"] = "cosine"

    def __post_init__(self) -> None:
        if isinstance(self.planes, bool) or not isinstance(self.planes, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"planes must be an integer, got {self.planes!r}")
        if self.planes < 1:
            raise ValueError(f"planes must be >= 1, got {self.planes}")
        one_of("taper", self.taper, ("cosine", "hard"))

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        if self.planes > dim // 2:
            raise ValueError(f"planes must be <= {dim // 2} (dim/2 with dim {dim}), got {self.planes}")
        steps = planes(inv_freq) - (dim // 2 - self.planes)
        if self.taper == "hard":
            return torch.where(steps >= 0, 0.0, inv_freq), 1.0
        t = steps.clamp(min=0.0) * (math.pi / max(self.planes - 1, 1))
        return inv_freq * (0.5 + 0.5 * torch.cos(t)), 1.0


@dataclass(frozen=True)
class Resonance(Scheme):
    """Resonance RoPE (Wang et al. 2024, arXiv:2403.00071): wavelengths rounded to whole tokens, 2 pi / round(2 pi / inv_freq).

    A plane then repeats itself exactly, and meets no new angle beyond the trained window once it came full circle. Chain it last.
    """

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        wavelength = (2.0 * math.pi / inv_freq).round().clamp(min=1.0)
        return 2.0 * math.pi / wavelength, 1.0


@dataclass(frozen=True)
class Gains(Scheme):
    """One factor per plane: inv_freq[i] x gains[i]. For spectra that were learned or searched."""

    gains: Sequence[float]
    _gains: Constants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = numbers("gains", self.gains, at_least=0.0)
        object.__setattr__(self, "gains", values)
        object.__setattr__(self, "_gains", Constants(values, torch.float64))

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_planes("gains", self.gains, dim)
        return inv_freq * self._gains.on(inv_freq.device).to(inv_freq.dtype), 1.0
