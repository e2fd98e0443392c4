"""Rotation functions as models write them, one for each way to pass tables and to leave channels or tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half pairing, tables (..., dim) whose two halves belong to the two channels of each pair."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def trailing(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The last channels rotate, as many as the tables have columns."""
    n = cos.shape[-1]
    return torch.cat((x[..., :-n], rotate_half(x[..., -n:], cos, sin)), -1)


def prefix(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """The last tokens rotate, as many as the tables have rows."""
    before = q.shape[-2] - cos.shape[-2]
    return tuple(torch.cat((x[..., :before, :], rotate_half(x[..., before:, :], cos, sin)), -2) for x in (q, k))


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairing, half-width tables."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def complex_table(q: Tensor, k: Tensor, freqs: Tensor) -> Any:
    """One complex table cos + i sin (batch, seq, dim/2)."""
    return tuple(interleaved(x, *(t[:, :, None] for t in (freqs.real, freqs.imag))) for x in (q, k))


def joined_table(sin_cos: Tensor, q: Tensor, k: Tensor, v: Tensor | None = None) -> Any:
    """One table (..., dim) of sin and cos side by side, before the tensors."""
    sin, cos = sin_cos.chunk(2, -1)
    return interleaved(q, cos, sin), interleaved(k, cos, sin)


def gathered_tables(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, ids: Tensor, unsqueeze_dim: int = 1
) -> Any:
    """Tables of all positions, of which ids (batch, seq) selects rows."""
    cos, sin = cos[ids].unsqueeze(unsqueeze_dim), sin[ids].unsqueeze(unsqueeze_dim)
    return tuple(rotate_half(x, cos, sin) for x in (q, k, v))


class Conformer:
    """A rotation that is a method, because it needs the numbers of its object."""

    heads, dim = 6, 12

    def rotate(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        """x: (batch, seq, heads * dim); cos_sin: (2, seq, 1, 1, dim)."""
        split = x.view(*x.shape[:-1], self.heads, self.dim).transpose(0, 1)
        return rotate_half(split, cos_sin[0], cos_sin[1]).transpose(0, 1).flatten(-2)
