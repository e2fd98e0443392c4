"""Query temperature: a factor that a model applies to its queries (or its softmax), besides the rotation, and never to keys.

    q = q * temperature(positions)[..., None]

It cannot be part of the tables: their amplitude also multiplies keys, and only the channels that rotate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .._checks import describe, index, integers, number, tensor
from .by_parts import mscale
from .scheme import check_factor, check_window


class Temperature(Protocol):
    """temperature(positions): integer positions (...) -> float32 factors (...) on the same device. TypeError for other positions."""

    def __call__(self, positions: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LogN:
    """max(1, ln(position + 1) / ln window) (Su 2021, kexue.fm/archives/8823): attention stays sharp beyond the trained window."""

    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        check_window(self.original_max_position_embeddings)
        if self.original_max_position_embeddings < 2:
            raise ValueError("original_max_position_embeddings must be >= 2: the temperature divides by its logarithm")

    def __call__(self, positions: Tensor) -> Tensor:
        tokens = (_int64(positions).clamp(min=0) + 1).to(torch.float32)
        window = torch.log(
            torch.full((), self.original_max_position_embeddings, dtype=torch.float32, device=positions.device)
        )
        return (tokens.log() / window).clamp(min=1.0)


@dataclass(frozen=True)
class Llama4:
    """1 + beta ln(1 + floor((position + first) / window)): Llama 4 on its layers without rotation, with first=1 (Meta,
    llama-models, models/llama4/model.py); Ministral 3 and Mistral 4 on every layer, with first=0 (`llama_4_scaling_beta`).
    """

    beta: float
    original_max_position_embeddings: int
    first: int = 0

    def __post_init__(self) -> None:
        number("beta", self.beta, at_least=0.0)
        check_window(self.original_max_position_embeddings)
        if index("first", self.first) not in (0, 1):
            raise ValueError(f"first must be 0 (Mistral) or 1 (Llama 4), got {describe(self.first)}")

    def __call__(self, positions: Tensor) -> Tensor:
        windows = (_int64(positions) + self.first) // self.original_max_position_embeddings
        return 1.0 + self.beta * windows.clamp(min=0).to(torch.float32).log1p()


@dataclass(frozen=True)
class MScale:
    """(0.1 mscale_all_dim ln factor + 1)^2 at every position: YaRN's temperature, applied in the softmax (DeepSeek-V2 and -V3).

    These models multiply the softmax scale head_dim^-0.5 by it. Their mscale equals mscale_all_dim, so that the attention factor of
    scaling.YaRN, which multiplies cos and sin, is 1.
    """

    factor: float
    mscale_all_dim: float = 1.0

    def __post_init__(self) -> None:
        check_factor(self.factor)
        number("mscale_all_dim", self.mscale_all_dim, at_least=0.0)

    @property
    def value(self) -> float:
        return mscale(self.factor, self.mscale_all_dim) ** 2

    def __call__(self, positions: Tensor) -> Tensor:
        integers("positions", tensor("positions", positions, "an integer tensor"))
        return torch.full(positions.shape, self.value, dtype=torch.float32, device=positions.device)


def _int64(positions: Tensor) -> Tensor:
    """Positions as int64, of which the next still fits: in a narrower dtype 255 + 1 is 0. TypeError for no integers."""
    integers("positions", tensor("positions", positions, "an integer tensor"))
    return positions.to(torch.int64).clamp(max=2**63 - 2)
