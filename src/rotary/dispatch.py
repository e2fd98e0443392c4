"""One rotation, from checked tensors to rotated ones: a kernel where it can run, autograd around it where a gradient is wanted.

    traced, transformed or unusual tensors -> the plain formula, which autograd, functorch and the compiler look into
    no gradient wanted                     -> the kernel, called directly
    otherwise                              -> the kernel inside an autograd node whose backward is the conjugate rotation

The backward pass needs cos and sin alone: no copy of a query or key is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from . import choice, inplace
from .constants import tracing, transforming
from .kernels import eager

Table = tuple[Tensor, Tensor]
Tensors = tuple[Tensor, ...]


class How(TypedDict):
    """What every kernel is told beside tensors: where the sequence lies, which channels pair, which way to turn."""

    seq_dim: int
    interleaved: bool
    conjugate: bool


_PLAIN = (Tensor, torch.nn.Parameter)


def rotate(
    xs: Tensors,
    tables: tuple[Table, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
    in_place: bool = False,
    backend: str | None = None,
    names: tuple[str, ...] = ("q", "k"),
) -> Tensors:
    """Rotated xs: fresh tensors with the dtype of x and the strides of empty_like(x), or, in place, the same objects.

    Shapes, dtypes and devices are settled by the caller; seq_dim is not negative. Tables that require a gradient get one.
    """
    grad = torch.is_grad_enabled()
    formula = needs_formula(xs, tables, grad)
    if not formula:  # the compiler cannot read a context variable
        backend = backend or choice.chosen()
    if not (formula or in_place or (grad and any(x.requires_grad for x in xs))):  # first, since decoding waits for it
        outs = tuple([torch.empty_like(x) for x in xs])
        choice.run(backend, xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
        return outs
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    if formula:
        if not in_place:
            return by_formula(xs, tables, how)
        over_by_formula(xs, tables, how)
        return xs
    if not in_place:
        return _Rotation.apply(backend, how, len(xs), *xs, *(t for table in tables for t in table))
    inplace.check(xs, names[: len(xs)])
    if grad and any(x.requires_grad for x in xs):
        for x, table in zip(xs, tables, strict=True):
            _RotationInPlace.apply(backend, how, x, *table)
    else:
        choice.run(backend, xs, xs, tables, **how)
    return xs


def needs_formula(xs: Tensors, tables: tuple[Table, ...], grad: bool) -> bool:
    """Whether a pointer into these tensors would lie, or lose a graph that is wanted."""
    if tracing() or forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return True
    for x in xs:
        if type(x) not in _PLAIN or x.layout is not torch.strided or x.is_neg() or x.is_meta:
            return True
        if is_legacy_batchedtensor(x):  # gradients of is_grads_batched=True: vmap of an older kind, with no interpreter
            return True
    before = None
    for table in tables:
        if table is before:  # q and k mostly share theirs
            continue
        before = table
        for t in table:
            if type(t) not in _PLAIN or t.is_neg() or (grad and t.requires_grad):
                return True
    return False


def by_formula(xs: Tensors, tables: tuple[Table, ...], how: How) -> Tensors:
    """Fresh outputs in operations that autograd, functorch and the compiler look into."""
    return tuple(_like(x, eager.formula(x, *table, **how)) for x, table in zip(xs, tables, strict=True))


def over_by_formula(xs: Tensors, tables: tuple[Table, ...], how: How) -> None:
    """The same, written over xs."""
    # A gradient of the tables needs what xs held, and autograd keeps no copy of its own.
    kept = torch.is_grad_enabled() and any(t.requires_grad for table in tables for t in table)
    for x, y in zip(xs, by_formula(tuple(x.clone() for x in xs) if kept else xs, tables, how), strict=True):
        x.copy_(y)


def _like(x: Tensor, y: Tensor) -> Tensor:
    """y with the strides of empty_like(x). Under functorch strides belong to the transform and are left alone."""
    if torch.compiler.is_compiling() or not transforming():
        return y if x.is_contiguous() else torch.empty_like(x).copy_(y)
    return y


def _back(how: How) -> How:
    return {**how, "conjugate": not how["conjugate"]}


def pairs(tensors: Sequence[Tensor]) -> tuple[Table, ...]:
    """cos, sin, cos, sin, ... -> (cos, sin), ..."""
    return tuple(zip(tensors[::2], tensors[1::2], strict=True))


def readable(grad: Tensor) -> Tensor:
    """Gradients of sums arrive expanded, with no memory behind their channels, which no kernel reads."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


class _Rotation(torch.autograd.Function):
    """One or two tensors, one launch, fresh outputs."""

    @staticmethod
    def forward(ctx: Any, backend: str | None, how: How, count: int, *tensors: Tensor) -> Tensors:
        xs, flat = tensors[:count], tensors[count:]
        outs = tuple(torch.empty_like(x) for x in xs)
        choice.run(backend, xs, outs, pairs(flat), **how)
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.backend, ctx.how, ctx.count = backend, how, count
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors  # read once: activation checkpointing allows no second time
        tables = pairs(saved)
        wanted = [i for i, grad in enumerate(grads) if grad is not None and ctx.needs_input_grad[3 + i]]
        rotated: list[Tensor | None] = [None] * ctx.count
        if wanted:
            how = _back(ctx.how)
            given = tuple(readable(grads[i]) for i in wanted)  # pyright: ignore[reportArgumentType]
            for i, y in zip(
                wanted, rotate(given, tuple(tables[i] for i in wanted), backend=ctx.backend, **how), strict=True
            ):
                rotated[i] = y
        return None, None, None, *rotated, *(None,) * len(saved)


class _RotationInPlace(torch.autograd.Function):
    """One tensor, written over. One node each, because torch allows no node that changes two views (every 3-D linear output is one)."""

    @staticmethod
    def forward(ctx: Any, backend: str | None, how: How, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        choice.run(backend, (x,), (x,), ((cos, sin),), **how)
        ctx.mark_dirty(x)
        ctx.save_for_backward(cos, sin)
        ctx.backend, ctx.how = backend, how
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        how = _back(ctx.how)
        (rotated,) = rotate((readable(grad),), pairs(ctx.saved_tensors), backend=ctx.backend, **how)
        return None, None, rotated, None, None
