"""Which two channels turn together, and how to go from one convention to the other.

One head of eight channels, the letters naming the planes:

    half          a b c d a b c d      channel j with j + dim/2     GPT-NeoX, Llama in transformers, Qwen, Gemma, Phi
    interleaved   a a b b c c d d      channel 2j with 2j + 1       GPT-J, Llama as Meta publishes it, GLM, Cohere, Flux

The same rotation up to a permutation of channels. A checkpoint made for one gives noise under the other, in silence, so nothing
here guesses: both functions say what goes in and what comes out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def half_to_interleaved(x: Tensor, *, dim: int | None = None, head_dim: int | None = None, axis: int = -1) -> Tensor:
    """Reorder channels paired as halves so that they are paired as neighbours: 0 1 2 3 -> 0 2 1 3.

    x: activations (..., head_dim), or a projection weight (heads * head_dim, in) or bias (heads * head_dim,) with axis=0 and
        head_dim given, so that every head is reordered by itself.
    dim: rotated channels, the leading ones of each head; default all of head_dim. The rest stays where it is.

    ValueError where the sizes do not fit.

    >>> half_to_interleaved(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """
    return _reorder(x, dim, head_dim, axis, to_interleaved=True)


def interleaved_to_half(x: Tensor, *, dim: int | None = None, head_dim: int | None = None, axis: int = -1) -> Tensor:
    """The inverse of half_to_interleaved, with the same arguments: 0 1 2 3 -> 0 2 1 3.

    >>> interleaved_to_half(torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return _reorder(x, dim, head_dim, axis, to_interleaved=False)


def permutation(dim: int, head_dim: int, *, to_interleaved: bool) -> Tensor:
    """(head_dim,) int64: y[j] = x[permutation[j]] reorders one head, its leading dim channels from one pairing to the other."""
    planes = torch.arange(dim)
    order = planes.view(2, dim // 2).t() if to_interleaved else planes.view(dim // 2, 2).t()
    return torch.cat((order.reshape(-1), torch.arange(dim, head_dim)))


def _reorder(x: Tensor, dim: int | None, head_dim: int | None, axis: int, *, to_interleaved: bool) -> Tensor:
    width = x.shape[axis]
    head_dim = width if head_dim is None else head_dim
    dim = head_dim if dim is None else dim
    if dim <= 0 or dim % 2 or dim > head_dim:
        raise ValueError(f"dim must be even, positive and at most head_dim {head_dim}, got {dim}")
    if width % head_dim:
        raise ValueError(f"axis {axis} of x with shape {tuple(x.shape)} is not a multiple of head_dim {head_dim}")
    heads = torch.arange(0, width, head_dim)[:, None]
    order = (heads + permutation(dim, head_dim, to_interleaved=to_interleaved)).reshape(-1)
    return x.index_select(axis, order.to(x.device))
