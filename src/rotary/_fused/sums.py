"""The order of addition. A sum has the same bits wherever it is taken in one order, by vectors of any width and by any number of threads.

By halves: the second half is added to the first, element by element, until one is left; zeros fill up to a power of two.

    s0 s1 s2 s3 s4  ->  s0 s1 s2 s3 s4 0 0 0  ->  s0+s4 s1 s2 s3  ->  (s0+s4)+s2 s1+s3  ->  ((s0+s4)+s2)+(s1+s3)

Over rows: 64 rows one after the other, and these sums by halves. Rows count through the batch, the sequence, then the other dimensions,
however they lie in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 64
"""Added one after the other: few enough to be accurate, and to be shared out to threads; many enough to leave little to add afterwards."""


def by_halves(t: Tensor, dim: int = -1) -> Tensor:
    """The sum along dim, which stays with size 1."""
    size = int(t.shape[dim])
    whole = 1 << max(size - 1, 0).bit_length()
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
    """t with that many zeros behind it."""
    if not missing:
        return t
    shape = list(t.shape)
    shape[dim] = missing
    return torch.cat((t, t.new_zeros(shape)), dim)
