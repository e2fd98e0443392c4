"""What a kernel is told beside tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """RMSNorm over head_dim: x / sqrt(mean(x^2) + eps) (weight + weight_offset). Source: Zhang and Sennrich 2019, equation 4.

    model: rounded to the dtype of x after the norm and after the weight, as models that cast there do. after: the rotation comes first.
    """

    eps: float
    weight_offset: float
    model: bool
    after: bool


class Store(NamedTuple):
    """values: (batch, seq, heads, value_dim). cache_k, cache_v: (pages, page, heads, head_dim). slots: (batch, seq), int32 or int64, page x
    rows of a page + row, negative for none. Any strides."""

    values: Tensor
    cache_k: Tensor
    cache_v: Tensor
    slots: Tensor


def by_token(x: Tensor, seq_dim: int) -> Tensor:
    """(batch, seq, heads, d), a view of x: (tokens, heads, d) and (heads, tokens, d) are a batch of one."""
    if x.ndim == 3:
        x, seq_dim = x[None], seq_dim + 1
    return x if seq_dim == 1 else x.transpose(1, 2)
