"""Text, images and video in one sequence, on three coordinates: time, row, column (M-RoPE of Qwen2-VL, arXiv:2409.12191, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from .counted import check_fits, count_from
from .grids import grid


def multimodal(
    *spans: int | Sequence[int], start: int = 0, device: torch.device | str | None = None
) -> tuple[Tensor, int]:
    """Positions (seq, 3) int64 of a sequence of spans, and the position of the token that comes next.

    spans: a number of text tokens, which count the same number on every coordinate, or the (frames, rows, columns) of an image or a
        video, in tokens, after patches are merged: a grid that starts at the next position.
    start: the position of the first token.

    TypeError for numbers that are no integers; ValueError for negative ones, a span of another number of sizes than three, and
    positions that do not fit int64.

    The position after a span is its largest coordinate + 1, for text and for grids. So decoding goes on where a prefill of the same
    tokens would: rope.rotate(q, k, offset=following). transformers 5.23 moves on by max(rows, columns) after a video within a prompt
    (models/qwen2_vl/modeling_qwen2_vl.py, get_rope_index) and by the largest coordinate + 1 when it decodes: for videos of more frames
    than rows and columns its prompt and its decoding disagree. For images, of one frame, both rules are this one.

    >>> positions, following = multimodal(2, (1, 1, 3), 1)
    >>> positions.tolist(), following
    ([[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 2, 3], [2, 2, 4], [5, 5, 5]], 6)
    """
    following, device = _checks.position("start", start), _checks.device("device", device)
    parts: list[Tensor] = []
    for i, span in enumerate(spans):
        if isinstance(span, Sequence):
            if len(span) != 3:
                raise ValueError(
                    f"span {i} must be a number of text tokens or (frames, rows, columns), got {_checks.describe(span)}"
                )
            part = grid(*span, start=following, device=device)
            advance = max(span) if len(part) else 0
        else:
            n = advance = _checks.length(f"span {i}", span)
            part = count_from(n, check_fits("start", following, n), device=device)[:, None].expand(-1, 3)
        parts.append(part)
        following += advance
    positions = torch.cat(parts) if parts else torch.empty((0, 3), dtype=torch.int64, device=device)
    return positions, following
