"""The settings of a norm and the tensors of a write into a cache, as a kernel gets them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """RMSNorm over head_dim: x / sqrt(mean(x^2) + eps) (weight + weight_offset). Source: Zhang and Sennrich 2019, equation 4.

    model: round to the dtype of x after the norm and again after the weight, like models that cast there. after: the norm follows the
    rotation.
    """

    eps: float
    weight_offset: float
    model: bool
    after: bool


class Store(NamedTuple):
    """The values and the caches to write to.

    values: (batch, seq, heads, value_dim). cache_k: (pages, page, heads, head_dim). cache_v: (pages, page, heads, value_dim). slots:
    (batch, seq), int32 or int64, index of a page x rows of a page + row, negative for none. All with any strides.
    """

    values: Tensor
    cache_k: Tensor
    cache_v: Tensor
    slots: Tensor


def by_token(x: Tensor, seq_dim: int) -> Tensor:
    """x as (batch, seq, heads, d), a view; (tokens, heads, d) and (heads, tokens, d) are a batch of one."""
    if x.ndim == 3:
        x, seq_dim = x[None], seq_dim + 1
    return x if seq_dim == 1 else x.transpose(1, 2)
