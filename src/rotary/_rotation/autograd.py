"""One rotation, from checked tensors to rotated ones: a kernel where it can run, autograd around it where a gradient is wanted.

    formula?   in place?   gradient?
    no         no          no          the kernel, into fresh outputs: the fast path, decoding
    no         no          yes         the kernel inside one autograd node for all tensors
    no         yes         no          the kernel, over the inputs
    no         yes         yes         the kernel inside an autograd node per tensor
    yes        no          any         the formula
    yes        yes         any         the formula, copied over the inputs; under torch.compile the operator rotate_ (_operators/)
    Under a dispatch mode that records operators, and for distributed tensors (DTensor): the operators of _operators/.

In place a compiled formula would make copies, and could not see whether q and k share memory; the operator sees it when it runs.
The formula is needed under torch.compile, export, functorch, forward mode, for tensor subclasses, and where cos or sin require a
gradient: see needs_formula. The backward pass is the same rotation with `conjugate` inverted. It reads cos and sin alone, so no copy
of a query or key is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from .._subclasses.dtensor import distributed
from .._torch import (
    batched_gradient,
    compiling,
    forward_mode,
    onnx_exporting,
    tracing,
    transforming,
    watched,
)
from .._types import CosSin, Tensors
from . import backends, eager, overlap


class How(TypedDict):
    """Options of every kernel: where the sequence is, which channels pair, in which direction to rotate."""

    seq_dim: int
    interleaved: bool
    conjugate: bool


_NO_DISPATCH = getattr(Tensor, "__torch_dispatch__", None)  # the attribute of classes that do not intercept operators
_PLAIN, _STRIDED = (Tensor, torch.nn.Parameter), torch.strided


def rotate(
    xs: Tensors,
    tables: tuple[CosSin, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
    in_place: bool = False,
    backend: str | None = None,
    names: tuple[str, ...] = ("q", "k"),
    traced: bool | None = None,
) -> Tensors:
    """Rotated xs: fresh tensors with the dtype of x and the strides of empty_like(x), or, in place, the same objects.

    Shapes, dtypes and devices are checked by the caller; seq_dim is not negative. Tables that require a gradient get one.
    names: of xs, for errors. backend: in a backward pass, that of the forward pass. traced: the answer of tracing(), if the caller has
    it.
    """
    grad = torch.is_grad_enabled()
    traced = tracing() if traced is None else traced
    formula = needs_formula(xs, tables, grad, traced)
    needs_grad = grad and any(x.requires_grad for x in xs)
    if not formula and watched():  # the mode sees one operator, and the kernel runs below it
        if hasattr(torch.ops.rotary, "rotate"):
            return by_operator(xs, tables, seq_dim, interleaved, conjugate, in_place)
        formula = True  # a folder for the kernels hub has no _operators/
    if not formula:  # the compiler cannot read a context variable
        backend = backend or backends.chosen()
        if not in_place and not needs_grad:  # fast path: call overhead dominates single-token decoding
            # A list inside: a generator takes 0.15 us more, of the 14 of one token.
            outs = tuple([torch.empty_like(x) for x in xs])
            backends.run(backend, xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
            return outs
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    if formula:
        if onnx_exporting():
            return _by_named_formula(xs, tables, how, in_place=in_place)
        if distributed(*xs, *(t for table in tables for t in table)):  # _operators/ has the rule for DTensors
            return by_operator(xs, tables, seq_dim, interleaved, conjugate, in_place)
        if not in_place:
            return by_formula(xs, tables, how)
        if compiling() and not (grad and any(t.requires_grad for table in tables for t in table)):
            return by_operator(xs, tables, seq_dim, interleaved, conjugate, in_place)
        if not traced and all(_has_memory(x) for x in xs):
            overlap.check(xs, names[: len(xs)])
        over_by_formula(xs, tables, how)
    elif not in_place:
        return _RotateFresh.apply(backend, how, len(xs), *xs, *(t for table in tables for t in table))
    else:
        overlap.check(xs, names[: len(xs)])
        if needs_grad:
            for x, table in zip(xs, tables, strict=True):
                _RotateInPlace.apply(backend, how, x, *table)
        else:
            backends.run(backend, xs, xs, tables, **how)
    return xs


def needs_formula(xs: Tensors, tables: tuple[CosSin, ...], grad: bool, traced: bool | None = None) -> bool:
    """True if the pointer-based kernels cannot be used: tensor subclasses, meta or traced tensors, transforms, or tables that need a
    gradient. traced: the answer of tracing(), if the caller has it."""
    if (tracing() if traced is None else traced) or forward_mode():
        return True
    for x in xs:
        if type(x) not in _PLAIN or x.layout is not _STRIDED or x.is_neg() or x.is_meta or batched_gradient(x):
            return True
    previous = None
    for table in tables:
        if table is previous:  # q and k mostly share one; skipping it saves 0.5 of the 18 us of a call on one token
            continue
        previous = table
        for t in table:
            if type(t) not in _PLAIN or t.is_neg() or (grad and t.requires_grad):
                return True
    return False


def tables_need_formula(tables: Sequence[Tensor]) -> bool:
    """True if an operator's own backward pass is not enough: transforms, forward mode, tables that need a gradient."""
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tables)
    return transforming() or forward_mode() or needs_grad


def _has_memory(x: Tensor) -> bool:
    """True if x has elements at addresses: not for meta tensors, nor for subclasses that wrap others (DTensor)."""
    wraps = getattr(type(x), "__torch_dispatch__", _NO_DISPATCH) is not _NO_DISPATCH
    return not (x.is_meta or wraps)


def by_operator(
    xs: Tensors, tables: tuple[CosSin, ...], seq_dim: int, interleaved: bool, conjugate: bool, in_place: bool
) -> Tensors:
    """Rotated xs by the operators of _operators/, through torch's dispatcher."""
    flat = [t for table in tables for t in table]
    # The compiler of torch 2.13 loses the gradient of DTensors that an operator writes over in a list: there they are copied over.
    copied = in_place and compiling() and distributed(*xs)
    if in_place and not copied:
        torch.ops.rotary.rotate_.default(list(xs), flat, seq_dim, interleaved, conjugate)
        return xs
    ys = torch.ops.rotary.rotate.default(list(xs), flat, seq_dim, interleaved, conjugate)
    if not copied:
        return tuple(ys)
    for x, y in zip(xs, ys, strict=True):
        x.copy_(y)
    return xs


def by_formula(xs: Tensors, tables: tuple[CosSin, ...], how: How) -> Tensors:
    """Rotated xs, fresh, by operations that autograd, functorch and the compiler handle."""
    return tuple(like(x, eager.formula(x, *table, **how)) for x, table in zip(xs, tables, strict=True))


def _by_named_formula(xs: Tensors, tables: tuple[CosSin, ...], how: How, *, in_place: bool) -> Tensors:
    """Rotated xs by the composite operator rotate_by_formula (_operators/rotation.py), which the ONNX exporter can write as one node."""
    flat = [t for table in tables for t in table]
    ys = torch.ops.rotary.rotate_by_formula.default(
        list(xs), flat, how["seq_dim"], how["interleaved"], how["conjugate"]
    )
    if not in_place:
        return tuple(ys)
    for x, y in zip(xs, ys, strict=True):
        x.copy_(y)
    return xs


def over_by_formula(xs: Tensors, tables: tuple[CosSin, ...], how: How) -> None:
    """Rotate xs by the formula and write the results over them."""
    # The gradient of a table is a function of x before the rotation, which is overwritten here: autograd needs a copy.
    clone = torch.is_grad_enabled() and any(t.requires_grad for table in tables for t in table)
    for x, y in zip(xs, by_formula(tuple(x.clone() for x in xs) if clone else xs, tables, how), strict=True):
        x.copy_(y)


def like(x: Tensor, y: Tensor) -> Tensor:
    """y with the strides of empty_like(x). Under functorch y is returned as it is, since the transform decides about strides."""
    if torch.compiler.is_compiling() or not transforming():
        return y if x.is_contiguous() else torch.empty_like(x).copy_(y)
    return y


def _inverted(how: How) -> How:
    return {**how, "conjugate": not how["conjugate"]}


def pairs(tensors: Sequence[Tensor]) -> tuple[CosSin, ...]:
    """cos, sin, cos, sin, ... -> (cos, sin), ..."""
    return tuple(zip(tensors[::2], tensors[1::2], strict=True))


def readable(grad: Tensor) -> Tensor:
    """The gradient with contiguous channels. That of a sum is an expanded tensor of stride 0, which no kernel reads."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


class _RotateFresh(torch.autograd.Function):
    """The node for one or two tensors, one launch, fresh outputs. Inputs: backend, how, count, xs, cos and sin of each."""

    @staticmethod
    def forward(ctx: Any, backend: str | None, how: How, count: int, *tensors: Tensor) -> Tensors:
        xs, flat = tensors[:count], tensors[count:]
        outs = tuple(torch.empty_like(x) for x in xs)
        backends.run(backend, xs, outs, pairs(flat), **how)
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.backend, ctx.how, ctx.count = backend, how, count
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # read once: activation checkpointing allows no second time
        tables = pairs(saved)
        indices = [i for i, grad in enumerate(grads) if grad is not None and ctx.needs_input_grad[3 + i]]
        rotated: list[Tensor | None] = [None] * ctx.count
        if indices:
            incoming = tuple(readable(grads[i]) for i in indices)  # pyright: ignore[reportArgumentType]
            ys = rotate(incoming, tuple(tables[i] for i in indices), backend=ctx.backend, **_inverted(ctx.how))
            for i, y in zip(indices, ys, strict=True):
                rotated[i] = y
        return None, None, None, *rotated, *(None,) * len(saved)


class _RotateInPlace(torch.autograd.Function):
    """The node for one tensor in place. One each, because torch allows no node that changes two views, and every 3-D output of a linear
    layer is a view."""

    @staticmethod
    def forward(ctx: Any, backend: str | None, how: How, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        backends.run(backend, (x,), (x,), ((cos, sin),), **how)
        ctx.mark_dirty(x)
        ctx.save_for_backward(cos, sin)
        ctx.backend, ctx.how = backend, how
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        how = _inverted(ctx.how)
        (rotated,) = rotate((readable(grad),), pairs(ctx.saved_tensors), backend=ctx.backend, **how)
        return None, None, rotated, None, None
