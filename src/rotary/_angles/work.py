"""The arguments of a kernel that makes exact tables, as a value."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Sizes

WORDS = ONE, BOTH, BOTH_WHERE_FAR = 1, 2, 3
"""Turns per token: in one word; in two words; in two words where |position| > 2^31, elsewhere in one word rounded from the two."""


class Work(NamedTuple):
    """Tables (batch, rows, planes) in memory; all tensors are contiguous and on one device.

    shape: of each table, as the caller sees it.
    positions: int64, (rows, coordinates) or (batch, rows, coordinates); step: positions between rows of the batch: 0 or rows.
    axes: (planes,) int64, the coordinate that each plane reads; None: the first.
    high, low: (batch, planes) int64; words: one of WORDS.
    amplitude: (1,) or (batch,) float64.
    decay: of xPos, (planes + 1,) float64, see XPos.decay; None without it.
    """

    shape: Sizes
    batch: int
    rows: int
    planes: int
    positions: Tensor
    step: int
    coordinates: int
    axes: Tensor | None
    high: Tensor
    low: Tensor | None
    words: int
    amplitude: Tensor
    decay: Tensor | None


def work_of(
    positions: Tensor,
    high: Tensor,
    low: Tensor | None,
    dtype: torch.dtype,
    *,
    axes: Tensor | None,
    amplitude: Tensor,
    decay: Tensor | None,
) -> Work | None:
    """The Work of int64 positions (...), or with axes (..., coordinates), and words (planes,) or (batch, 1, planes).

    None where words per row of a batch come with positions of other shapes than (seq,), (1, seq) and (batch, seq).
    """
    shape, coordinates = (positions.shape, 1) if axes is None else (positions.shape[:-1], positions.shape[-1])
    planes = high.shape[-1]
    words = ONE if low is None else BOTH if dtype == torch.float64 else BOTH_WHERE_FAR
    batch, step = 1, 0
    rows = shape.numel()
    if high.ndim == 3 and high.shape[0] == 1:
        shape = torch.Size((1, *shape)) if len(shape) == 1 else shape
    elif high.ndim == 3:
        batch = high.shape[0]
        if len(shape) == 2 and shape[0] == batch:
            rows = step = shape[1]
        elif not (len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)):
            return None
        shape = torch.Size((batch, rows))
    return Work(
        (*shape, planes),
        batch,
        rows,
        planes,
        positions.contiguous(),
        step,
        coordinates,
        axes,
        high.contiguous(),
        None if low is None else low.contiguous(),
        words,
        amplitude,
        decay,
    )
