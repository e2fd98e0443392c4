"""A tensor as a GPU kernel sees it: sizes and strides of tokens and heads, whatever dimensions it has."""

from __future__ import annotations

from typing import NamedTuple

Sizes = tuple[int, ...]


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


def fold(
    shape: Sizes, x_strides: Sizes, y_strides: Sizes, table: Sizes, table_strides: Sizes, seq_dim: int
) -> Axes | None:
    """Any dimensions as (batch, heads, seq, channels), or None where the others do not fold into two.

    Strides of dimensions of size 1 are 0: nothing is ever added to an address for them, and nothing should be inferred from them.
    """
    own_rows = len(table) == 3 and table[0] > 1
    others = [(n, x_strides[i], y_strides[i]) if n > 1 else (n, 0, 0) for i, n in enumerate(shape[:-1]) if i != seq_dim]
    while len(others) > 2:
        # Two neighbours are one dimension where a step of the outer is as long as all steps of the inner.
        for i in range(own_rows, len(others) - 1):
            (n, x_outer, y_outer), (m, x_inner, y_inner) = others[i : i + 2]
            if n <= 1 or m <= 1:
                others[i : i + 2] = [(n * m, *(others[i][1:] if m == 1 else others[i + 1][1:]))]
                break
            if x_outer == m * x_inner and y_outer == m * y_inner:
                others[i : i + 2] = [(n * m, x_inner, y_inner)]
                break
        else:
            return None
    nothing = (1, 0, 0)
    others = [*others, nothing, nothing][:2] if own_rows else [*(nothing,) * (2 - len(others)), *others]
    (batch, x_b, y_b), (heads, x_h, y_h) = others
    seq = shape[seq_dim]
    x_s, y_s, table_s = (x_strides[seq_dim], y_strides[seq_dim], table_strides[-2]) if seq > 1 else (0, 0, 0)
    return Axes(
        batch * seq, max(seq, 1), heads, x_b, x_h, x_s, y_b, y_h, y_s, table_strides[0] if own_rows else 0, table_s
    )


def alike(table: Sizes, cos_strides: Sizes, sin_strides: Sizes) -> bool:
    """Whether one set of strides, with adjacent columns, says where both tables lie."""
    steps = [(a, b) for n, a, b in zip(table, cos_strides, sin_strides, strict=True) if n > 1]
    return all(a == b for a, b in steps) and (table[-1] <= 1 or steps[-1][0] == 1)
