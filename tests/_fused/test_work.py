"""Tokens first, then heads, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotary._fused.work import by_token


@pytest.mark.parametrize(
    ("shape", "seq_dim", "by_tokens", "element"),
    [
        ((2, 3, 5, 7), 1, (2, 3, 5, 7), lambda x, b, s, h, d: x[b, s, h, d]),
        ((2, 3, 5, 7), 2, (2, 5, 3, 7), lambda x, b, s, h, d: x[b, h, s, d]),
        ((3, 5, 7), 0, (1, 3, 5, 7), lambda x, b, s, h, d: x[s, h, d]),
        ((3, 5, 7), 1, (1, 5, 3, 7), lambda x, b, s, h, d: x[h, s, d]),
    ],
)
def test_by_token(shape: tuple[int, ...], seq_dim: int, by_tokens: tuple[int, ...], element: Callable[..., Tensor]):
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    y = by_token(x, seq_dim)
    assert y.shape == by_tokens and y.data_ptr() == x.data_ptr()
    for at in torch.cartesian_prod(*map(torch.arange, by_tokens)).tolist():
        assert y[tuple(at)] == element(x, *at)
