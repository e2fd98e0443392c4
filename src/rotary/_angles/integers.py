"""Positions as integers: in int64, and the smallest and largest of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._types import Range


def as_int64(positions: Tensor, traced: bool, name: str = "positions") -> Tensor:
    """Positions as int64. ValueError for uint64 positions of 2^63 or more where the host can read them; elsewhere they wrap."""
    if positions.dtype == torch.int64:
        return positions
    converted = positions.to(torch.int64)
    if (
        positions.dtype == torch.uint64
        and not traced
        and positions.device.type == "cpu"
        and bool((converted < 0).any())
    ):
        raise ValueError(f"{name} must be below 2^63, got larger ones in a uint64 tensor")
    return converted


def range_of(positions: Tensor, traced: bool) -> Range | None:
    """The smallest and the largest position of a CPU tensor outside tracing; None otherwise, since reading would wait for the device.

    Real positions are rounded outwards. ValueError where one is not finite.
    """
    if traced or positions.device.type != "cpu" or positions.numel() == 0:
        return None
    low, high = positions.detach().aminmax()
    if positions.is_floating_point():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("positions must be finite, got infinite ones or NaN")
        return math.floor(low), math.ceil(high)
    return int(low), int(high)
