"""Positions of patches: (patches, coordinates), the last coordinate fastest, as images and videos are flattened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _checks
from .counted import check_fits, count_from


def grid(*sizes: int, start: int | Sequence[int] = 0, device: torch.device | str | None = None) -> Tensor:
    """Positions (product of sizes, coordinates) int64 of a grid: rows and columns, or frames, rows and columns.

    start: the first position, one for all coordinates or one for each. TypeError for numbers that are no integers; ValueError for a
        negative size, a start of another length, and one from which the positions do not fit int64.

    >>> grid(2, 3).tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    counts = _sizes(sizes)
    if isinstance(start, Sequence):
        starts = [_checks.position(f"start[{i}]", first) for i, first in enumerate(start)]
    else:
        starts = [_checks.position("start", start)] * len(counts)
    if len(starts) != len(counts):
        raise ValueError(f"start has {len(starts)} numbers, the grid {len(counts)} coordinates")
    device = _checks.device("device", device)
    for first, n in zip(starts, counts, strict=True):
        check_fits("start", first, n)
    return _product([count_from(n, first, device=device) for first, n in zip(starts, counts, strict=True)])


def merged(rows: int, columns: int, merge: int, *, device: torch.device | str | None = None) -> Tensor:
    """Positions (rows x columns, 2) int64 in the order in which blocks of merge x merge patches are merged into tokens: block by block.

    That is the order of the vision towers of Qwen-VL, GLM-V and others (transformers 5.23, vision_utils.get_vision_position_ids).
    TypeError for numbers that are no integers; ValueError where merge does not divide rows and columns.

    >>> merged(2, 4, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    """
    height, width, block = *_sizes((rows, columns)), _checks.index("merge", merge)
    if block < 1 or height % block or width % block:
        raise ValueError(f"blocks of {block} x {block} patches do not divide a grid of {height} x {width}")
    blocks = grid(height, width, device=device).view(height // block, block, width // block, block, 2)
    return blocks.transpose(1, 2).reshape(-1, 2)


def centres(
    *sizes: int, by: Literal["each", "max", "min"] = "each", device: torch.device | str | None = None
) -> Tensor:
    """Real positions (patches, coordinates) float64 of the centres of patches, (2 i + 1 - N) / M: from -1 to 1.

    N: the size of the coordinate. by: M is N ("each": DINOv3), or the largest or the smallest size ("max", "min"), which keeps the
        aspect ratio. TypeError or ValueError for sizes that are no integers >= 0, and for another `by`.

    >>> centres(2, 4)[:3].tolist()
    [[-0.5, -0.75], [-0.5, -0.25], [-0.5, 0.25]]
    """
    counts = _sizes(sizes)
    _checks.one_of("by", by, ("each", "max", "min"))
    device = _checks.device("device", device)
    common = max(counts) if by == "max" else min(counts)
    axes = [
        (2 * torch.arange(n, dtype=torch.float64, device=device) + (1 - n)) / (n if by == "each" else common)
        for n in counts
    ]
    return _product(axes)


def prefixed(positions: Tensor, n: int) -> Tensor:
    """positions (..., seq, coordinates) with n rows of zeros in front: class and register tokens, which do not turn.

    Such tokens keep their bits where the attention factor is 1; otherwise they are multiplied by it, as all tokens are. TypeError for
    positions that are no dense tensor of numbers, and an n that is no integer; ValueError for a negative n and positions of another shape.

    >>> prefixed(grid(1, 2), 1).tolist()
    [[0, 0], [0, 0], [0, 1]]
    """
    count = _checks.length("n", n)
    _checks.positions(_checks.tensor("positions", positions))
    if positions.ndim < 2:
        raise ValueError(f"positions must have shape (..., seq, coordinates), got {tuple(positions.shape)}")
    zeros = positions.new_zeros((*positions.shape[:-2], count, positions.shape[-1]))
    return torch.cat((zeros, positions), -2)


def grids(sizes: Sequence[Sequence[int]], *, device: torch.device | str | None = None) -> Tensor:
    """Positions (patches of all images, coordinates) int64 of images of different size in one row, each counted from 0.

    sizes: of each image, (rows, columns) or more numbers. TypeError for sizes that are no integers; ValueError for none, negative ones,
    and images with different numbers of coordinates.

    >>> grids([(1, 2), (2, 1)]).tolist()
    [[0, 0], [0, 1], [0, 0], [1, 0]]
    """
    images = [
        _sizes(_checks.list_of(f"sizes[{i}]", size, "integers, one for each coordinate"))
        for i, size in enumerate(_checks.list_of("sizes", sizes, "sizes of images, (rows, columns) each"))
    ]
    if not images:
        raise ValueError("grids() needs the size of each image, as grids([(16, 16), (8, 24)])")
    numbers = sorted({len(size) for size in images})
    if len(numbers) > 1:
        raise ValueError(f"the images must have one number of coordinates, got {' and '.join(map(str, numbers))}")
    return torch.cat([grid(*size, device=device) for size in images])


def _sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes of a grid as integers >= 0; TypeError or ValueError for anything else, and for none."""
    if not sizes:
        raise ValueError("a grid needs its sizes, as grid(rows, columns)")
    return tuple(_checks.length(f"sizes[{i}]", n) for i, n in enumerate(sizes))


def _product(axes: list[Tensor]) -> Tensor:
    """(product of lengths, coordinates): every combination of one position of each axis, the last axis fastest."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
