"""LongRoPE: one searched factor per plane, in two lists, for short and for long contexts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._checks import number
from .._constants import Constants
from .._types import Frequencies, Length
from .scheme import Scheme, check_factor, check_planes, check_window, number_list, powers


@dataclass(frozen=True, repr=False)
class LongRoPE(Scheme):
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): inv_freq[i] / short_factor[i], or / long_factor[i] beyond the trained window.

        attention_factor = sqrt(1 + ln factor / ln original_max_position_embeddings), 1 where factor <= 1

    One of these is required: factor, the target / trained length of that formula; attention_factor, which replaces the formula; or
    short_mscale and long_mscale, one attention factor for each list (Phi-3.5-MoE). The frequencies depend on the length.
    config: rope_type "longrope" (Phi-3's "su").
    """

    short_factor: Sequence[float]
    long_factor: Sequence[float]
    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None
    short_mscale: float | None = None
    long_mscale: float | None = None
    _short: Constants = field(init=False, repr=False, compare=False)
    _long: Constants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_window(self.original_max_position_embeddings)
        for name in ("short_factor", "long_factor"):
            values = number_list(name, getattr(self, name))
            object.__setattr__(self, name, values)
            object.__setattr__(self, "_" + name.removesuffix("_factor"), Constants(values, torch.float64))
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                f"short_factor and long_factor must be equally long, got {len(self.short_factor)} and {len(self.long_factor)} values"
            )
        for name in ("attention_factor", "short_mscale", "long_mscale"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name))
        if self.factor is not None:
            check_factor(self.factor)
        if (self.short_mscale is None) != (self.long_mscale is None):
            raise ValueError("short_mscale and long_mscale belong together: pass both or neither")
        if self.short_mscale is not None and self.attention_factor is not None:
            raise ValueError("pass attention_factor, or short_mscale and long_mscale, not both")
        if self.factor is None and self.attention_factor is None and self.short_mscale is None:
            raise ValueError("LongRoPE needs factor (target / trained length) or attention_factor")
        if self.original_max_position_embeddings == 1 and self.attention_factor is None and self.short_mscale is None:
            raise ValueError(
                "the attention factor divides by ln original_max_position_embeddings: 1 is too short a window"
            )

    @property
    def window(self) -> int:
        return self.original_max_position_embeddings

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_planes("short_factor", self.short_factor, dim)
        factors = self._factors(length, self._short.on(inv_freq.device), self._long.on(inv_freq.device))
        return inv_freq / factors.to(inv_freq.dtype), self._amplitude(inv_freq, length)

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        check_planes("short_factor", self.short_factor, dim)
        short, long = (factors.on(inv_freq.device).float() for factors in (self._short, self._long))
        factors = self._factors(length, short, long)
        return 1.0 / (factors * powers(base, dim, inv_freq.device)), self._amplitude(inv_freq, length)

    def _factors(self, length: Length, short: Tensor, long: Tensor) -> Tensor:
        if isinstance(length, Tensor):
            return torch.where((length > self.window)[..., None], long, short)
        return long if length is not None and length > self.window else short

    def _amplitude(self, like: Tensor, length: Length) -> float | Tensor:
        if self.attention_factor is not None:
            return float(self.attention_factor)
        if self.short_mscale is None or self.long_mscale is None:
            assert self.factor is not None
            return 1.0 if self.factor <= 1.0 else math.sqrt(1 + math.log(self.factor) / math.log(self.window))
        if isinstance(length, Tensor):
            long, short = (
                torch.full((), m, dtype=like.dtype, device=like.device) for m in (self.long_mscale, self.short_mscale)
            )
            return torch.where(length > self.window, long, short)
        return float(self.long_mscale if length is not None and length > self.window else self.short_mscale)
