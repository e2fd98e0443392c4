"""Norm, rotation and write in plain torch operations: the reference that the other kernels are tested against.

`norm_rotate` and its backward write into memory like every kernel; `formula` and `gradients` return new tensors, from operations that
autograd, functorch and the compiler can differentiate, batch and fuse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._rotation import eager as rotation
from .._types import CosSin, Tensors
from . import sums
from .work import Norm, Store, by_token

Weights = tuple[Tensor | None, ...]


def unavailable() -> str | None:
    return None


def norm_rotate(
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    with torch.no_grad():
        for x, out, weight, (cos, sin) in zip(xs, outs, weights, tables, strict=True):
            out.copy_(formula(x, weight, cos, sin, norm, seq_dim=seq_dim, interleaved=interleaved))
    return None


def norm_rotate_backward(
    grads: Tensors,
    xs: Tensors,
    grad_xs: Tensors,
    grad_weights: Weights,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    with torch.no_grad():
        for grad, x, grad_x, grad_weight, weight, (cos, sin) in zip(
            grads, xs, grad_xs, grad_weights, weights, tables, strict=True
        ):
            of_x, of_rows = gradients(grad, x, weight, cos, sin, norm, seq_dim=seq_dim, interleaved=interleaved)
            grad_x.copy_(of_x)
            if grad_weight is not None:
                grad_weight.copy_(sums.over_rows(of_rows, seq_dim))
    return None


def rotate_and_store(
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm | None,
    store: Store,
    *,
    seq_dim: int,
    interleaved: bool,
) -> str | None:
    if norm is None:
        rotation.rotate(xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=False)
    else:
        norm_rotate(xs, outs, weights, tables, norm, seq_dim=seq_dim, interleaved=interleaved)
    write(by_token(outs[-1], seq_dim), store)
    return None


def write(keys: Tensor, store: Store) -> None:
    """Copy keys (batch, seq, heads, head_dim) and values to their slots. On the meta device slots have no values, and nothing is copied."""
    if store.slots.is_meta:
        return
    with torch.no_grad():
        slots = store.slots.to(torch.int64)
        token = (slots >= 0).nonzero(as_tuple=True)
        slots, page = slots[token], store.cache_k.shape[1]
        at = slots.div(page, rounding_mode="floor") if page else slots, slots % page if page else slots
        store.cache_k[at] = keys[token]
        store.cache_v[at] = store.values[token]


def formula(
    x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, norm: Norm, *, seq_dim: int, interleaved: bool
) -> Tensor:
    """The normalised and rotated x as a pure function of (x, weight, cos, sin), differentiable in each of them."""
    v = x.to(cos.dtype)
    if norm.after:
        v = _turned(v, cos, sin, seq_dim, interleaved)
        v = _rounded(v, x.dtype) if norm.model else v
    n = v * rstd(v, norm.eps)
    n = _rounded(n, x.dtype) if norm.model else n
    if weight is not None:
        n = n * factor(weight, norm, cos.dtype)
        n = _rounded(n, x.dtype) if norm.model else n
    if not norm.after:
        n = _turned(n, cos, sin, seq_dim, interleaved)
    return n.to(x.dtype)


def gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient of x, in its dtype, and that of the weight before its rows are added, (..., head_dim) in the dtype of the tables.

        g = grad turned back                   n = v r               after: g = grad, v = rotated x, and grad_x is turned back instead
        grad_weight = sum over rows of g n     (n as the forward pass multiplied it: rounded if `model`; gradients are not rounded)
        grad_x = (g w - n mean(g w n)) r

    A pure function of (grad, x, weight), differentiable in each of them.
    """
    g, v = grad.to(cos.dtype), x.to(cos.dtype)
    if norm.after:
        v = _turned(v, cos, sin, seq_dim, interleaved)
        v = _rounded(v, x.dtype) if norm.model else v
    else:
        g = _turned(g, cos, sin, seq_dim, interleaved, conjugate=True)
    r = rstd(v, norm.eps)
    n = v * r
    of_rows = g * (_rounded(n, x.dtype) if norm.model else n)
    if weight is not None:
        g = g * factor(weight, norm, cos.dtype)
    of_x = (g - n * (sums.by_halves(g * n) * _inverse(x))) * r
    if norm.after:
        of_x = _turned(of_x, cos, sin, seq_dim, interleaved, conjugate=True)
    return of_x.to(x.dtype), of_rows


def rstd(v: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(v^2) + eps), (..., 1).

    By torch.rsqrt, which on a CPU rounds the root and the quotient correctly, like the processor's instructions; torch.sqrt does not.
    """
    return torch.rsqrt(sums.by_halves(v * v) * _inverse(v) + eps)


def factor(weight: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """weight + weight_offset, the factor of a normalised row, in the dtype of the arithmetic."""
    weight = weight.to(dtype)
    return weight + norm.weight_offset if norm.weight_offset else weight


def _inverse(v: Tensor) -> float:
    # The mean is a product with this, not a quotient: on a GPU torch too divides by a number by multiplying with its inverse.
    return 1.0 / max(v.shape[-1], 1)


def _rounded(v: Tensor, dtype: torch.dtype) -> Tensor:
    return v.to(dtype).to(v.dtype)


def _turned(v: Tensor, cos: Tensor, sin: Tensor, seq_dim: int, interleaved: bool, conjugate: bool = False) -> Tensor:
    return rotation.formula(v, cos, sin, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
