"""rows_of(): a model's table in the shape that apply_rotary takes, and the dimension of x that its rows belong to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rows_of(table: Tensor, x: Tensor, unsqueeze: Any) -> tuple[int, Tensor] | None:
    """For a table that broadcasts against x: (seq_dim, the table as (seq, P) or (batch, seq, P)). None if it varies along more
    dimensions than these two.

    >>> import torch
    >>> seq_dim, rows = rows_of(torch.ones(2, 5, 4), torch.ones(2, 3, 5, 8), 1)
    >>> seq_dim, rows.shape
    (2, torch.Size([2, 5, 4]))
    """
    # apply_rotary warns of tables in half precision, which here are the model's own.
    table = table.float() if table.dtype in (torch.bfloat16, torch.float16) else table
    aligned = table if unsqueeze is None else table.unsqueeze(unsqueeze)
    if aligned.ndim > x.ndim:
        return None
    sizes = [1] * (x.ndim - aligned.ndim) + list(aligned.shape[:-1])
    aligned = aligned.reshape(*sizes, aligned.shape[-1])
    seq_dim = _seq_dim(sizes, x)
    if seq_dim is None or sizes[seq_dim] != x.shape[seq_dim]:
        return None
    if seq_dim == 0 or sizes[0] == 1:
        return seq_dim, aligned.reshape(sizes[seq_dim], -1)
    return (seq_dim, aligned.reshape(sizes[0], sizes[seq_dim], -1)) if sizes[0] == x.shape[0] else None


def _seq_dim(sizes: list[int], x: Tensor) -> int | None:
    """The dimension of x that the rows of a table belong to, None if there are several. sizes: of the table, aligned with x, without the
    last."""
    varying = [d for d in range(1, x.ndim - 1) if sizes[d] != 1]
    if varying:
        return varying[0] if len(varying) == 1 else None
    if sizes[0] != 1 and (x.ndim == 2 or 1 not in x.shape[1:-1]):
        return 0  # x is (tokens, heads, channels)
    single = [d for d in range(1, x.ndim - 1) if x.shape[d] == 1]  # one token: the last dimension of size 1
    return single[-1] if single else None
