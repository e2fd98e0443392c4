"""Which two channels turn together, and how to go from one convention to the other.

One head of eight channels, the letters naming the planes:

    half          a b c d a b c d      channel j with j + dim/2     GPT-NeoX, Llama in transformers, Qwen, Gemma, Phi
    interleaved   a a b b c c d d      channel 2j with 2j + 1       GPT-J, Llama as Meta publishes it, GLM, Cohere, Flux

Both are the same rotation up to a permutation of channels. A checkpoint made for one gives noise under the other, and no error: nothing
can be detected from a single tensor, so both functions are named by the pairing that goes in and the one that comes out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _checks


def half_to_interleaved(x: Tensor, *, dim: int | None = None, head_dim: int | None = None, axis: int = -1) -> Tensor:
    """x with its channels reordered from half pairs to interleaved ones: 0 1 2 3 4 5 -> 0 3 1 4 2 5.

    x: activations (..., head_dim), or a projection weight (heads * head_dim, in) or bias (heads * head_dim,) with axis=0 and
        head_dim given, so that every head is reordered by itself.
    dim: rotated channels, the leading ones of each head; default all of head_dim. The rest stays where it is.
    axis: the dimension of the channels.

    Returns a new tensor of x's shape and dtype. TypeError for what is no tensor or integer, and for nested tensors and
    DTensors; ValueError where the sizes do not fit.

    >>> half_to_interleaved(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """
    return _reorder(x, dim, head_dim, axis, to_interleaved=True)


def interleaved_to_half(x: Tensor, *, dim: int | None = None, head_dim: int | None = None, axis: int = -1) -> Tensor:
    """x with its channels reordered from interleaved pairs to half ones, the inverse of half_to_interleaved: 0 1 2 3 4 5 -> 0 2 4 1 3 5.

    >>> interleaved_to_half(torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return _reorder(x, dim, head_dim, axis, to_interleaved=False)


def permutation(dim: int, head_dim: int, *, to_interleaved: bool) -> Tensor:
    """(head_dim,) int64: y[j] = x[permutation[j]] reorders one head, its leading dim channels from one pairing to the other.

    to_interleaved: whether the result is interleaved and x half-paired, or the reverse. TypeError or ValueError for numbers that are no
    widths.
    """
    dim, head_dim = _widths(dim, head_dim)
    return _order(dim, head_dim, _checks.flag("to_interleaved", to_interleaved), None)


def _order(dim: int, head_dim: int, to_interleaved: bool, device: torch.device | None) -> Tensor:
    planes = torch.arange(dim, device=device)
    order = planes.view(2, dim // 2).t() if to_interleaved else planes.view(dim // 2, 2).t()
    return torch.cat((order.reshape(-1), torch.arange(dim, head_dim, device=device)))


def _reorder(x: Tensor, dim: int | None, head_dim: int | None, axis: int, *, to_interleaved: bool) -> Tensor:
    _checks.tensor("x", x)
    _checks.local("x", x)
    if x.is_nested:
        _checks.dense("x", x)
    axis = _checks.index("axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {_checks.describe(axis)} is no dimension of x with shape {tuple(x.shape)}")
    width = x.shape[axis]
    head_dim = width if head_dim is None else head_dim
    dim, head_dim = _widths(head_dim if dim is None else dim, head_dim)
    if width % head_dim:
        raise ValueError(f"axis {axis} of x with shape {tuple(x.shape)} is not a multiple of head_dim {head_dim}")
    heads = torch.arange(0, width, head_dim, device=x.device)[:, None]
    return x.index_select(axis, (heads + _order(dim, head_dim, to_interleaved, x.device)).reshape(-1))


def _widths(dim: Any, head_dim: Any) -> tuple[int, int]:
    """(dim, head_dim) as integers; TypeError or ValueError unless dim is even and 0 < dim <= head_dim."""
    dim, head_dim = _checks.index("dim", dim), _checks.index("head_dim", head_dim)
    if dim <= 0 or dim % 2 or dim > head_dim:
        raise ValueError(f"dim must be even, positive and at most head_dim {head_dim}, got {dim}")
    if head_dim > _checks.WIDEST:
        raise ValueError(f"head_dim must be at most {_checks.WIDEST:,} channels, got {_checks.describe(head_dim)}")
    return dim, head_dim
