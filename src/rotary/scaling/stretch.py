"""Schemes that stretch the whole spectrum by one rule: linear, NTK-aware, dynamic, mixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import number
from .scheme import Frequencies, Length, Scheme, check_factor, check_ntk, check_window, first_in_chain, planes, powers


@dataclass(frozen=True)
class Linear(Scheme):
    """Position interpolation (Chen et al. 2023, arXiv:2306.15595, equation 4): inv_freq / factor.

    Every plane is slowed alike; neighbours become harder to tell apart. Needs finetuning. config: rope_type "linear".
    """

    factor: float

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return inv_freq / self.factor, 1.0


@dataclass(frozen=True)
class NTK(Scheme):
    """NTK-aware (bloc97 2023; derived in YaRN, arXiv:2309.00071, appendix A.1): base' = base factor^(dim / (dim - 2)).

    The first plane stays, the last is divided by factor, those between geometrically. config: "alpha" of Hunyuan's "dynamic".
    The same as RotaryEmbedding's base_rescale_factor. Needs dim >= 4.
    """

    factor: float

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_ntk("NTK", dim)
        return inv_freq * torch.exp(planes(inv_freq) * (-2.0 / (dim - 2) * math.log(self.factor))), 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        otherwise, _ = self(inv_freq, base=base, dim=dim)
        theirs = 1.0 / powers(base * self.factor ** (dim / (dim - 2)), dim, inv_freq.device)
        return first_in_chain(inv_freq, theirs, otherwise, base, dim), 1.0


@dataclass(frozen=True)
class DynamicNTK(Scheme):
    """NTK-aware by as much as the context asks for (emozilla 2023; transformers "dynamic"), with L the trained window:

        base' = base (factor l / L - (factor - 1))^(dim / (dim - 2)),    l = max(length, L)

    With factor 1 the stretch is l / L. Depends on the length: keys of a cache were rotated with the length of their time, so cache
    keys unrotated, or keep length= constant through a generation. Needs dim >= 4. config: rope_type "dynamic".
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
        exponents = planes(inv_freq) * (-2.0 / (dim - 2))
        if not isinstance(length, Tensor):  # through a tensor too, so that a row and a whole call give the same bits
            length = torch.full((), length, dtype=torch.int64, device=inv_freq.device)
        stretch = self._stretch(length.clamp(min=self.window).to(inv_freq.dtype))
        assert isinstance(stretch, Tensor)
        # exp(e log z), never pow: a row must keep its bits whatever the batch around it
        return inv_freq * torch.exp(exponents * stretch.log()[..., None]), 1.0

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        if isinstance(length, Tensor) and length.ndim == 1:  # row by row: pow over rows would change their bits
            rows = inv_freq.expand(length.shape[0], -1).unbind(0)
            found = [
                self.in_float32(row, base=base, dim=dim, length=one)[0]
                for row, one in zip(rows, length.unbind(0), strict=True)
            ]
            return torch.stack(found) if found else inv_freq.new_empty((0, dim // 2)), 1.0
        otherwise, _ = self(inv_freq, base=base, dim=dim, length=length)
        tokens = self.window if length is None else length
        tokens = tokens.clamp(min=self.window) if isinstance(tokens, Tensor) else max(tokens, self.window)
        theirs = 1.0 / powers(base * self._stretch(tokens) ** (dim / (dim - 2)), dim, inv_freq.device)
        return first_in_chain(inv_freq, theirs, otherwise, base, dim), 1.0

    def _stretch(self, length: float | Tensor) -> float | Tensor:
        return (self.factor * length / self.window) - (self.factor - 1)


@dataclass(frozen=True)
class NTKMixed(Scheme):
    """NTK-mixed (Su 2023, kexue.fm/archives/9706): inv_freq[i] exp(-a (i + 1)^exponent), a = ln factor / (dim/2)^exponent.

    The last plane is divided by factor, like NTK, with more of the work left to the low frequencies.
    """

    factor: float
    exponent: float = 0.75

    def __post_init__(self) -> None:
        check_factor(self.factor)
        number("exponent", self.exponent)

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        share = torch.exp(torch.log((planes(inv_freq) + 1) / (dim // 2)) * self.exponent)
        return inv_freq * torch.exp(share * -math.log(self.factor)), 1.0
