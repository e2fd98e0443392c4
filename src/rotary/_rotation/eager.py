"""The rotation in plain torch operations: the reference that the other kernels are tested against.

`rotate` writes into memory like every kernel; `formula` returns a new tensor, from operations that autograd, functorch and the
compiler can differentiate, batch and fuse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._types import CosSin, Tensors


def unavailable() -> str | None:
    return None


def rotate(
    xs: Tensors,
    outs: Tensors,
    tables: tuple[CosSin, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> str | None:
    with torch.no_grad():
        for x, out, (cos, sin) in zip(xs, outs, tables, strict=True):
            dim = 2 * cos.shape[-1]
            y_a, y_b = _turn(x, cos, sin, seq_dim, interleaved, conjugate)
            out_a, out_b = _planes(out, dim, interleaved)
            out_a.copy_(y_a)
            out_b.copy_(y_b)
            if out is not x and dim < x.shape[-1]:
                out[..., dim:].copy_(x[..., dim:])
    return None


def formula(x: Tensor, cos: Tensor, sin: Tensor, *, seq_dim: int, interleaved: bool, conjugate: bool) -> Tensor:
    """The rotation as a pure function of (x, cos, sin), differentiable in each of them."""
    dim = 2 * cos.shape[-1]
    y_a, y_b = _turn(x, cos, sin, seq_dim, interleaved, conjugate)
    # reshape, because the older vmap behind is_grads_batched=True has no rule for flatten
    y = torch.stack((y_a, y_b), -1).reshape(*y_a.shape[:-1], dim) if interleaved else torch.cat((y_a, y_b), -1)
    y = y.to(x.dtype)
    return y if dim == x.shape[-1] else torch.cat((y, x[..., dim:]), -1)


def _turn(
    x: Tensor, cos: Tensor, sin: Tensor, seq_dim: int, interleaved: bool, conjugate: bool
) -> tuple[Tensor, Tensor]:
    cos, sin = _spread(cos, x.ndim, seq_dim), _spread(sin, x.ndim, seq_dim)
    a, b = (t.to(cos.dtype) for t in _planes(x, 2 * cos.shape[-1], interleaved))
    # Separate multiplications and one addition, never addcmul: a fused multiply-add rounds differently, and prefill = decode,
    # native = eager and compiled = eager are promises about bits.
    if conjugate:
        return a * cos + b * sin, b * cos - a * sin
    return a * cos - b * sin, b * cos + a * sin


def _planes(x: Tensor, dim: int, interleaved: bool) -> tuple[Tensor, Tensor]:
    """The two channels of every plane, each (..., dim/2), as views."""
    if interleaved:
        return x[..., 0:dim:2], x[..., 1:dim:2]
    return x[..., : dim // 2], x[..., dim // 2 : dim]


def _spread(table: Tensor, ndim: int, seq_dim: int) -> Tensor:
    """(seq, P) or (batch, seq, P) -> a view that broadcasts against x with its sequence at seq_dim."""
    between = (None,) * (ndim - 2 - seq_dim)
    if table.ndim == 2:
        return table[(slice(None), *between)]
    if seq_dim == 0:  # the table has a batch of 1, and x has no dimension before its sequence to broadcast it against
        return table[0][(slice(None), *between)]
    return table[(slice(None), *(None,) * (seq_dim - 1), slice(None), *between)]
