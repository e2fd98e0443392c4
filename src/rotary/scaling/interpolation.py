"""Schemes that slow the whole spectrum by one formula: linear, NTK-aware, dynamic, mixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import number
from .._types import Frequencies, Length
from .scheme import Scheme, check_factor, check_ntk, check_window, plane_indices, powers


@dataclass(frozen=True, repr=False)
class Linear(Scheme):
    """Position interpolation (Chen et al. 2023, arXiv:2306.15595, equation 4): inv_freq / factor.

    Every plane is slowed by the same factor, which makes neighbouring tokens harder to tell apart. Needs finetuning.
    RotaryEmbedding(interpolation_factor=) divides positions instead: the same angles but for the float32 rounding of inv_freq / factor,
    for factors from 1 on. In new code take Linear. config: rope_type "linear".
    """

    factor: float

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return inv_freq / self.factor, 1.0


@dataclass(frozen=True, repr=False)
class NTK(Scheme):
    """NTK-aware (bloc97 2023; derived in YaRN, arXiv:2309.00071, appendix A.1): base' = base factor^(dim / (dim - 2)).

    The first plane is kept, the last is divided by factor, those between by powers of it. RotaryEmbedding(base_rescale_factor=) is the
    same change of base; in new code take NTK. config: "alpha" of Hunyuan's rope_type "dynamic". Needs dim >= 4.
    """

    factor: float

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_ntk("NTK", dim)
        return inv_freq * torch.exp(plane_indices(inv_freq) * (-2.0 / (dim - 2) * math.log(self.factor))), 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_ntk("NTK", dim)
        return 1.0 / powers(base * self.factor ** (dim / (dim - 2)), dim, inv_freq.device), 1.0


@dataclass(frozen=True, repr=False)
class DynamicNTK(Scheme):
    """NTK-aware change of base that grows with the context (emozilla 2023; transformers "dynamic"); L is the trained window:

        base' = base (factor l / L - (factor - 1))^(dim / (dim - 2)),    l = max(length, L)

    With factor 1 the longest wavelength grows by l / L. The frequencies depend on the length, and cached keys keep those they were
    rotated with: cache keys before rotation, or keep length= constant during a generation. Needs dim >= 4.
    config: rope_type "dynamic".
    """

    factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        check_factor(self.factor)
        check_window(self.original_max_position_embeddings)

    @property
    def window(self) -> int:
        return self.original_max_position_embeddings

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_ntk("DynamicNTK", dim)
        if length is None:
            return inv_freq, 1.0
        exponents = plane_indices(inv_freq) * (-2.0 / (dim - 2))
        if not isinstance(length, Tensor):  # an int becomes a tensor, so that it gives the bits of a row
            length = torch.full((), length, dtype=torch.int64, device=inv_freq.device)
        stretch = self._stretch(length.clamp(min=self.window).to(inv_freq.dtype))
        assert isinstance(stretch, Tensor)
        # exp(e log z), not pow: pow's bits of a row depend on the batch size
        return inv_freq * torch.exp(exponents * stretch.log()[..., None]), 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        if isinstance(length, Tensor) and length.ndim == 1:  # row by row: pow's bits of a row depend on the batch size
            rows = [self.in_float32(inv_freq, base=base, dim=dim, length=row)[0] for row in length.unbind(0)]
            return torch.stack(rows) if rows else inv_freq.new_empty((0, dim // 2)), 1.0
        check_ntk("DynamicNTK", dim)
        tokens = self.window if length is None else length
        tokens = tokens.clamp(min=self.window) if isinstance(tokens, Tensor) else max(tokens, self.window)
        return 1.0 / powers(base * self._stretch(tokens) ** (dim / (dim - 2)), dim, inv_freq.device), 1.0

    def _stretch(self, length: float | Tensor) -> float | Tensor:
        return (self.factor * length / self.window) - (self.factor - 1)


@dataclass(frozen=True, repr=False)
class NTKMixed(Scheme):
    """NTK-mixed (Su 2023, kexue.fm/archives/9706): inv_freq[i] exp(-a (i + 1)^exponent), a = ln factor / (dim/2)^exponent.

    The last plane is divided by factor, as in NTK, but the low frequencies take a larger share of the change.
    """

    factor: float
    exponent: float = 0.75

    def __post_init__(self) -> None:
        check_factor(self.factor)
        number("exponent", self.exponent)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        share = torch.exp(torch.log((plane_indices(inv_freq) + 1) / (dim // 2)) * self.exponent)
        return inv_freq * torch.exp(share * -math.log(self.factor)), 1.0
