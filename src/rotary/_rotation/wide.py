"""The rotation by tables with a column per channel, as models of other libraries make them:

    y_a = a cos_a - b sin_a        y_b = b cos_b + a sin_b

If the two columns of each plane are equal, this is the rotation. Whether they are is a question about values: on a device every call would
wait for the answer, or take it from a cache, which a write through .data does not invalidate. So the GPU kernel reads both columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._triton.devices import serves
from .._types import CosSin, Tensors
from . import backends, triton
from .autograd import How, needs_formula, pairs, readable


def rotate(
    xs: Tensors, tables: tuple[CosSin, ...], *, seq_dim: int, interleaved: bool, conjugate: bool, adjacent: bool
) -> Tensors | None:
    """Rotated xs, fresh, by the GPU kernel, with a gradient to xs; None, with nothing computed, where it does not serve them.

    xs: one or two tensors (..., seq at seq_dim, ..., head_dim) of one dtype on one device.
    tables: a (cos, sin) per x of one floating dtype, (seq, dim) or (batch, seq, dim) with dim <= head_dim; the two columns of plane j are
        j and j + dim/2, or with `adjacent` 2j and 2j + 1. Computed in float32, float64 where x is float64, and rounded once.
    """
    grad = torch.is_grad_enabled()
    dtypes = {t.dtype for table in tables for t in table}
    if backends.chosen() not in (None, "triton") or not all(serves(x) for x in xs):
        return None
    if needs_formula(xs, tables, grad) or len(dtypes) > 1 or any(x.dtype != xs[0].dtype for x in xs):
        return None
    if any(t.device != xs[0].device for t in (*xs, *(t for table in tables for t in table))):
        return None
    double = xs[0].dtype == torch.float64
    if double != (torch.float64 in dtypes):
        work = torch.float64 if double else torch.float32
        tables = tuple((cos.to(work), sin.to(work)) for cos, sin in tables)
    how: _How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate, "adjacent": adjacent}
    if not (grad and any(x.requires_grad for x in xs)):
        return _run(xs, tables, how, transposed=False)
    try:
        return _RotateWide.apply(how, False, len(xs), *xs, *(t for table in tables for t in table))
    except _NotServed:
        return None


class _How(How):
    """Options of a rotation, and which two columns of a table belong to plane j: 2j and 2j + 1 if adjacent, else j and j + dim/2."""

    adjacent: bool


class _NotServed(Exception):
    """The kernel does not serve these tensors."""


def _run(xs: Tensors, tables: tuple[CosSin, ...], how: _How, *, transposed: bool) -> Tensors | None:
    outs = tuple(torch.empty_like(x) for x in xs)
    return outs if triton.rotate_wide(xs, outs, tables, **how, transposed=transposed) is None else None


class _RotateWide(torch.autograd.Function):
    """The node for one or two tensors. Its gradient is the same kernel in the other direction, with sin_a and sin_b exchanged."""

    @staticmethod
    def forward(ctx: Any, how: _How, transposed: bool, count: int, *tensors: Tensor) -> Tensors:
        xs, flat = tensors[:count], tensors[count:]
        outs = _run(xs, pairs(flat), how, transposed=transposed)
        if outs is None:
            raise _NotServed
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.how, ctx.transposed, ctx.count = how, transposed, count
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        tables, how = pairs(saved), {**ctx.how, "conjugate": not ctx.how["conjugate"]}
        indices = [i for i, grad in enumerate(grads) if grad is not None and ctx.needs_input_grad[3 + i]]
        rotated: list[Tensor | None] = [None] * ctx.count
        incoming = [readable(grads[i]) for i in indices]  # pyright: ignore[reportArgumentType]
        if indices:
            flat = [t for i in indices for t in tables[i]]
            try:
                ys = _RotateWide.apply(how, not ctx.transposed, len(indices), *incoming, *flat)
            except (
                _NotServed
            ):  # strides that do not fold into the kernel's dimensions; those of contiguous memory always do
                incoming = [grad.contiguous() for grad in incoming]
                ys = _RotateWide.apply(how, not ctx.transposed, len(indices), *incoming, *flat)
            for i, y in zip(indices, ys, strict=True):
                rotated[i] = y
        return None, None, None, *rotated, *(None,) * len(saved)
