"""A tensor of any dimensions as (batch, heads, seq, channels) for a GPU kernel: sizes and strides.

fold() merges adjacent dimensions whose strides nest, until two are left. (2, 4, 5, 8, 64) contiguous, the sequence at dimension 3:

    size          2      4      5    [ 8     64 ]
    stride    10240   2560    512    [64      1 ]
              |__________|     |
               batch 8      heads 5                 10240 = 4 x 2560: one dimension of 8, stride 2560
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from .._types import Sizes


class Axes(NamedTuple):
    """One tensor as (batch, heads, seq, channels): sizes, then strides [elements] of x, of y and of the rows of its tables."""

    tokens: int
    """batch x seq"""
    seq: int
    heads: int
    x_b: int
    x_h: int
    x_s: int
    y_b: int
    y_h: int
    y_s: int
    table_b: int
    table_s: int


class _Dim(NamedTuple):
    size: int
    x_stride: int
    y_stride: int


_ONE = _Dim(1, 0, 0)


def fold(
    shape: Sizes, x_strides: Sizes, y_strides: Sizes, table: Sizes, table_strides: Sizes, seq_dim: int
) -> Axes | None:
    """A tensor as (batch, heads, seq, channels), or None where its dimensions other than sequence and channels do not fold into two.

    Where tables have a row per batch entry, dimension 0 is the batch and all others fold into the heads. Strides of dimensions of
    size 1 become 0: only index 0 multiplies them, and the launcher's greatest common divisor ignores zeros.
    """
    row_per_batch = len(table) == 3 and table[0] > 1
    dims = [
        _Dim(n, x_strides[i], y_strides[i]) if n > 1 else _Dim(n, 0, 0)
        for i, n in enumerate(shape[:-1])
        if i != seq_dim
    ]
    if row_per_batch:
        heads = _folded(dims[1:], 1)
        folded = None if heads is None else [dims[0], *(heads or [_ONE])]
    else:
        folded = _folded(dims, 2)
        folded = None if folded is None else [*[_ONE] * (2 - len(folded)), *folded]
    if folded is None:
        return None
    batch, heads = folded
    seq = shape[seq_dim]
    x_s, y_s, table_s = (x_strides[seq_dim], y_strides[seq_dim], table_strides[-2]) if seq > 1 else (0, 0, 0)
    return Axes(
        tokens=batch.size * seq,
        seq=max(seq, 1),
        heads=heads.size,
        x_b=batch.x_stride,
        x_h=heads.x_stride,
        x_s=x_s,
        y_b=batch.y_stride,
        y_h=heads.y_stride,
        y_s=y_s,
        table_b=table_strides[0] if row_per_batch else 0,
        table_s=table_s,
    )


def _folded(dims: list[_Dim], most: int) -> list[_Dim] | None:
    """The dimensions with adjacent ones merged until at most so many are left; None where their strides do not allow it."""
    while len(dims) > most:
        for i, (outer, inner) in enumerate(pairwise(dims)):
            merged = _merged(outer, inner)
            if merged is not None:
                dims = [*dims[:i], merged, *dims[i + 2 :]]
                break
        else:
            return None
    return dims


def _merged(outer: _Dim, inner: _Dim) -> _Dim | None:
    """Two adjacent dimensions as one, if one has size 1 or a step of the outer is as long as all steps of the inner; else None."""
    size = outer.size * inner.size
    if outer.size <= 1 or inner.size <= 1:
        return _Dim(size, *(outer if inner.size == 1 else inner)[1:])
    if outer.x_stride == inner.size * inner.x_stride and outer.y_stride == inner.size * inner.y_stride:
        return _Dim(size, inner.x_stride, inner.y_stride)
    return None


def same_layout(table: Sizes, cos_strides: Sizes, sin_strides: Sizes) -> bool:
    """True if cos and sin have the same strides and contiguous columns; dimensions of size 1 do not count."""
    steps = [(a, b) for n, a, b in zip(table, cos_strides, sin_strides, strict=True) if n > 1]
    return all(a == b for a, b in steps) and (table[-1] <= 1 or steps[-1][0] == 1)
