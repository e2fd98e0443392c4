"""One norm and rotation, from checked tensors to finished ones: a kernel where it can run, autograd around it where a gradient is wanted.

    formula?   gradient?   in place?
    no         no          no          the kernel, into fresh outputs
    no         no          yes         the kernel, over the inputs
    no         yes         no          the kernel inside one autograd node for all tensors
    yes        any         no          the formula
    yes        no          yes         the formula, copied over the inputs
    any        yes         yes         RuntimeError: the backward pass reads x, which would be overwritten

The formula is needed where the rotation needs it (_rotation/autograd.py), and for weights that are not plain tensors. The node saves x,
the weights, cos and sin, and no normalised copy: the backward pass reads x anyway and normalises it again. A second derivative is taken
of the formula of the first.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor

from .._rotation import overlap
from .._rotation.autograd import like, needs_formula, pairs, readable
from .._torch import batched_gradient, tracing
from .._types import CosSin, Tensors
from . import backends, eager, sums
from .eager import Weights
from .work import Norm

NAMES = ("q", "k")
_PLAIN, _STRIDED = (Tensor, torch.nn.Parameter), torch.strided


class NormHow(TypedDict):
    """Options of every kernel of norm and rotation: where the sequence is, which channels pair."""

    seq_dim: int
    interleaved: bool


def norm_rotate(
    xs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
    in_place: bool = False,
    backend: str | None = None,
) -> Tensors:
    """Normalised and rotated xs: fresh, with the dtype of x and the strides of empty_like(x), or, in place, the same objects.

    Shapes, dtypes and devices are checked by the caller; seq_dim is not negative. Tables that require a gradient get one.
    """
    grad = torch.is_grad_enabled()
    formula = needs_formula(xs, tables, grad) or not plain(weights)
    needs_grad = grad and wants_gradient(xs, weights, tables)
    if in_place:
        check_in_place(xs, needs_grad)
    if not formula:  # the compiler cannot read a context variable
        backend = backend or backends.chosen()
        if not needs_grad:
            outs = xs if in_place else tuple([torch.empty_like(x) for x in xs])  # as in _rotation/autograd.py
            run(backend, xs, outs, weights, tables, norm, seq_dim, interleaved)
            return outs
        how: NormHow = {"seq_dim": seq_dim, "interleaved": interleaved}
        flat = [t for table in tables for t in table]
        return NormRotate.apply(backend, norm, how, len(xs), *xs, *weights, *flat)
    return by_formula(xs, weights, tables, norm, seq_dim=seq_dim, interleaved=interleaved, in_place=in_place)


def run(
    backend: str | None,
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    seq_dim: int,
    interleaved: bool,
) -> None:
    backends.run(
        backend,
        xs[0].device.type,
        lambda kernel: kernel.norm_rotate(xs, outs, weights, tables, norm, seq_dim=seq_dim, interleaved=interleaved),
    )


def by_formula(
    xs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
    in_place: bool,
) -> Tensors:
    """Normalised and rotated xs, by operations that autograd, functorch and the compiler handle."""
    ys = [
        eager.formula(x, weight, *table, norm, seq_dim=seq_dim, interleaved=interleaved)
        for x, weight, table in zip(xs, weights, tables, strict=True)
    ]
    if not in_place:
        return tuple(like(x, y) for x, y in zip(xs, ys, strict=True))
    for x, y in zip(xs, ys, strict=True):
        x.copy_(y)
    return xs


def check_in_place(xs: Tensors, needs_grad: bool) -> None:
    """RuntimeError where xs may not be written over."""
    if needs_grad:
        raise RuntimeError(
            "q and k cannot be normalised in place where a gradient is wanted, since the backward pass reads them: leave inplace=False, "
            "or call this under torch.no_grad()"
        )
    if not tracing() and all(type(x) in _PLAIN and not x.is_meta for x in xs):
        overlap.check(xs, NAMES[-len(xs) :])


def wants_gradient(xs: Tensors, weights: Weights, tables: tuple[CosSin, ...]) -> bool:
    """True if one of these tensors requires a gradient."""
    return (
        any(x.requires_grad for x in xs)
        or any(weight is not None and weight.requires_grad for weight in weights)
        or any(t.requires_grad for table in tables for t in table)
    )


def plain(weights: Weights) -> bool:
    """True if kernels can read the weights by their addresses."""
    return all(
        weight is None
        or (type(weight) in _PLAIN and weight.layout is _STRIDED and not (weight.is_neg() or weight.is_meta))
        for weight in weights
    )


class NormRotate(torch.autograd.Function):
    """The node for one or two tensors, one launch, fresh outputs. Inputs: backend, norm, how, count, xs, weights, cos and sin of each."""

    @staticmethod
    def forward(ctx: Any, backend: str | None, norm: Norm, how: NormHow, count: int, *tensors: Any) -> Tensors:
        xs, weights, flat = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        outs = tuple(torch.empty_like(x) for x in xs)
        run(backend, xs, outs, weights, pairs(flat), norm, how["seq_dim"], how["interleaved"])
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*constant(xs, weights, outs))
        ctx.backend, ctx.norm, ctx.how, ctx.count = backend, norm, how, count
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # read once: activation checkpointing allows no second time
        count = ctx.count
        indices = [i for i, grad in enumerate(grads) if grad is not None]
        gradients = backward(
            ctx.backend,
            tuple(grads[i] for i in indices),  # pyright: ignore[reportArgumentType]
            tuple(saved[i] for i in indices),
            tuple(saved[count + i] if ctx.needs_input_grad[4 + count + i] else None for i in indices),
            tuple(saved[count + i] for i in indices),
            tuple((saved[2 * count + 2 * i], saved[2 * count + 2 * i + 1]) for i in indices),
            ctx.norm,
            **ctx.how,
        )
        of_xs: list[Tensor | None] = [None] * count
        of_weights: list[Tensor | None] = [None] * count
        for i, of_x, of_weight in zip(indices, *gradients, strict=True):
            of_xs[i], of_weights[i] = of_x, of_weight
        return None, None, None, None, *of_xs, *of_weights, *(None,) * (2 * count)


def constant(xs: Tensors, weights: Weights, outs: Tensors) -> list[Tensor]:
    """The outputs whose x and weight require no gradient."""
    return [
        out
        for x, weight, out in zip(xs, weights, outs, strict=True)
        if not (x.requires_grad or (weight is not None and weight.requires_grad))
    ]


def backward(
    backend: str | None,
    grads: Tensors,
    xs: Tensors,
    differentiated: Weights,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
) -> tuple[Tensors, Weights]:
    """The gradients of xs and of weights, in their dtypes. differentiated: the weights that need one, None for the others."""
    if not grads:
        return (), ()
    if torch.is_grad_enabled() or needs_formula((*grads, *xs), tables, True) or any(map(batched_gradient, grads)):
        return backward_by_formula(grads, xs, differentiated, weights, tables, norm, seq_dim, interleaved)
    return run_backward(backend, grads, xs, differentiated, weights, tables, norm, seq_dim, interleaved)


def backward_by_formula(
    grads: Tensors,
    xs: Tensors,
    differentiated: Weights,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    seq_dim: int,
    interleaved: bool,
) -> tuple[Tensors, Weights]:
    """backward() by operations that can be differentiated again, and batched."""
    of_xs: list[Tensor] = []
    of_weights: list[Tensor | None] = []
    for grad, x, differentiated_weight, weight, table in zip(grads, xs, differentiated, weights, tables, strict=True):
        of_x, rows = eager.gradients(grad, x, weight, *table, norm, seq_dim=seq_dim, interleaved=interleaved)
        of_xs.append(of_x)
        of_weights.append(
            None if differentiated_weight is None else sums.over_rows(rows, seq_dim).to(differentiated_weight.dtype)
        )
    return tuple(of_xs), tuple(of_weights)


def run_backward(
    backend: str | None,
    grads: Tensors,
    xs: Tensors,
    differentiated: Weights,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    seq_dim: int,
    interleaved: bool,
) -> tuple[Tensors, Weights]:
    """backward() by a kernel."""
    incoming = tuple(readable(grad) for grad in grads)
    of_xs = tuple(torch.empty_like(x) for x in xs)
    sums_of_rows = tuple(
        None if weight is None else torch.empty(weight.shape, dtype=table[0].dtype, device=weight.device)
        for weight, table in zip(differentiated, tables, strict=True)
    )
    backends.run(
        backend,
        xs[0].device.type,
        lambda kernel: kernel.norm_rotate_backward(
            incoming,
            xs,
            of_xs,
            sums_of_rows,
            weights,
            tables,
            norm,
            seq_dim=seq_dim,
            interleaved=interleaved,
        ),
    )
    of_weights = tuple(
        None if weight is None or total is None else total.to(weight.dtype)
        for weight, total in zip(differentiated, sums_of_rows, strict=True)
    )
    return of_xs, of_weights
