"""The order of addition. A sum has the same bits wherever its numbers are added in one order, by vectors and threads of any number.

By halves: the second half is added to the first, element by element, until one number is left. Zeros fill up to a power of two, at least
16, the numbers in the widest vector of a processor.

    s0 s1 ... s39  ->  s0 ... s39 0 ... 0 (64)  ->  s0+s32 ... s7+s39 s8 ... s31  ->  (s0+s32)+s16 ...  ->  ...

Over rows: chunks of 64 rows, added one after the other, then the sums of the chunks by halves. Rows are numbered through the batch, then
the sequence, then the other dimensions, whatever their order in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 16
ROWS = 64
"""Rows of a chunk: few enough for accuracy and for sharing them out to threads, many enough to leave few chunks to add."""


def by_halves(t: Tensor, dim: int = -1) -> Tensor:
    """The sum along dim, which stays with size 1."""
    size = int(t.shape[dim])
    whole = max(LANES, 1 << max(size - 1, 0).bit_length())
    t = _filled(t, whole - size, dim)
    while whole > 1:
        whole //= 2
        t = t.narrow(dim, 0, whole) + t.narrow(dim, whole, whole)
    return t


def over_rows(t: Tensor, seq_dim: int) -> Tensor:
    """t (..., seq at seq_dim, ..., head_dim) -> (head_dim,), the sum of its rows."""
    rows = t.movedim(seq_dim, min(seq_dim, 1)).reshape(-1, t.shape[-1])
    chunks = -(-rows.shape[0] // ROWS)
    groups = _filled(rows, chunks * ROWS - rows.shape[0], 0).reshape(chunks, ROWS, t.shape[-1])
    total = torch.zeros_like(groups[:, 0])
    for i in range(ROWS):
        total = total + groups[:, i]
    return over_chunks(total)


def over_chunks(t: Tensor) -> Tensor:
    """t (chunks, head_dim), a sum for each 64 rows -> (head_dim,)."""
    return by_halves(t, 0)[0]


def _filled(t: Tensor, missing: int, dim: int) -> Tensor:
    """t followed by that many zeros."""
    if not missing:
        return t
    shape = list(t.shape)
    shape[dim] = missing
    return torch.cat((t, t.new_zeros(shape)), dim)
