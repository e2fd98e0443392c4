"""The frequencies of a module at a length of the context, read off its tables by public calls."""

from __future__ import annotations

import torch
from torch import Tensor

from rotary import RotaryEmbedding


def frequencies(rope: RotaryEmbedding, length: int | None = None) -> tuple[Tensor, float]:
    """(inv_freq (dim/2,) float32 [rad/token], attention factor) of positions 0 and 1.

    Tables in float64 are within 5e-16, so that the angle at position 1, below pi rad, rounds to the module's float32 frequency.
    """
    cos, sin = rope.cos_sin(2, torch.float64, role="query", length=length)
    radians = torch.atan2(sin[1], cos[1]) * rope.interpolation_factor
    return radians.to(torch.float32), float(cos[0, 0])
