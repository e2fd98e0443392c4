"""Functions that rotate, in the ways that models write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def trailing(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    n = cos.shape[-1]
    return torch.cat((x[..., :-n], turn(x[..., -n:], cos, sin)), -1)


def prefix(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    before = q.shape[-2] - cos.shape[-2]
    return tuple(torch.cat((x[..., :before, :], turn(x[..., before:, :], cos, sin)), -2) for x in (q, k))


def neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def by_complex(q: Tensor, k: Tensor, freqs: Tensor) -> Any:
    return tuple(neighbours(x, *(t[:, :, None] for t in (freqs.real, freqs.imag))) for x in (q, k))


def by_joined(both: Tensor, q: Tensor, k: Tensor, v: Tensor | None = None) -> Any:
    sin, cos = both.chunk(2, -1)
    return neighbours(q, cos, sin), neighbours(k, cos, sin)


def by_rows(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, ids: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos[ids].unsqueeze(unsqueeze_dim), sin[ids].unsqueeze(unsqueeze_dim)
    return tuple(turn(x, cos, sin) for x in (q, k, v))


class Conformer:
    """Rotates by a method, which knows heads and head_dim."""

    heads, dim = 6, 12

    def rotate(self, x: Tensor, both: Tensor) -> Tensor:
        """x: (batch, seq, heads * dim); both: (2, seq, 1, 1, dim), cos and sin."""
        split = x.view(*x.shape[:-1], self.heads, self.dim).transpose(0, 1)
        return turn(split, both[0], both[1]).transpose(0, 1).flatten(-2)
