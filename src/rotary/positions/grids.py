"""Positions of patches: (patches, coordinates), the last coordinate fastest, as images and videos are flattened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _checks


def grid(*sizes: int, start: int | Sequence[int] = 0, device: torch.device | str | None = None) -> Tensor:
    """Positions (product of sizes, coordinates) int64 of a grid: rows and columns, or frames, rows and columns.

    start: the first position, one for all coordinates or one for each. ValueError for a negative size or a start of another length.

    >>> grid(2, 3).tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    counts = _sizes(sizes)
    starts = [_checks.index("start", start)] * len(counts) if isinstance(start, int) else list(start)
    if len(starts) != len(counts):
        raise ValueError(f"start has {len(starts)} numbers, the grid {len(counts)} coordinates")
    axes = [
        torch.arange(_checks.index("start", first), _checks.index("start", first) + n, device=device)
        for first, n in zip(starts, counts, strict=True)
    ]
    return _product(axes)


def merged(rows: int, columns: int, merge: int, *, device: torch.device | str | None = None) -> Tensor:
    """Positions (rows x columns, 2) int64 in the order in which blocks of merge x merge patches are merged into tokens: block by block.

    That is the order of the vision towers of Qwen-VL, GLM-V and others (transformers 5.23, vision_utils.get_vision_position_ids).
    ValueError where merge does not divide rows and columns.

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

    N: the size of the coordinate. by: M is N ("each": DINOv3), or the largest or the smallest size, which keeps the aspect ratio.

    >>> centres(2, 4)[:3].tolist()
    [[-0.5, -0.75], [-0.5, -0.25], [-0.5, 0.25]]
    """
    counts = _sizes(sizes)
    _checks.one_of("by", by, ("each", "max", "min"))
    common = max(counts) if by == "max" else min(counts)
    axes = [
        (2 * torch.arange(n, dtype=torch.float64, device=device) + (1 - n)) / (n if by == "each" else common)
        for n in counts
    ]
    return _product(axes)


def prefixed(positions: Tensor, n: int) -> Tensor:
    """positions (..., seq, coordinates) with n tokens in front that do not turn: class and register tokens stand at 0.

    Such tokens keep their bits where the attention factor is 1; otherwise they are multiplied by it, as all tokens are.

    >>> prefixed(grid(1, 2), 1).tolist()
    [[0, 0], [0, 0], [0, 1]]
    """
    count = _checks.length("n", n)
    if positions.ndim < 2:
        raise ValueError(f"positions must have shape (..., seq, coordinates), got {tuple(positions.shape)}")
    still = positions.new_zeros((*positions.shape[:-2], count, positions.shape[-1]))
    return torch.cat((still, positions), -2)


def grids(sizes: Sequence[Sequence[int]], *, device: torch.device | str | None = None) -> Tensor:
    """Positions (patches of all, coordinates) int64 of images of different size in one row, each counted from 0.

    >>> grids([(1, 2), (2, 1)]).tolist()
    [[0, 0], [0, 1], [0, 0], [1, 0]]
    """
    if not sizes:
        raise ValueError("grids() needs the size of each image, as grids([(16, 16), (8, 24)])")
    if len({len(size) for size in sizes}) > 1:
        raise ValueError(f"the images must have one number of coordinates, got {[tuple(size) for size in sizes]}")
    return torch.cat([grid(*size, device=device) for size in sizes])


def _sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    if not sizes:
        raise ValueError("a grid needs its sizes, as grid(rows, columns)")
    return tuple(_checks.length(f"sizes[{i}]", n) for i, n in enumerate(sizes))


def _product(axes: list[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
