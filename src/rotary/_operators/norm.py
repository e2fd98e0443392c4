"""Norm and rotation as operators registered with torch: one node that a compiler leaves whole, with the kernel of the device inside.

    torch.ops.rotary.norm_rotate             fresh outputs, q and k in one launch
    torch.ops.rotary.norm_rotate_            the same, written over q and k

The functions of rotary.fused are these operators under torch.compile, where that is faster than the formula (docs/design/0013), and the
formula under torch.export. Gradients of tables, forward mode, functorch's transforms and batched gradients use the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._fused import autograd, backends
from .._fused.work import Norm
from .._rotation import overlap
from .._rotation.autograd import pairs, tables_need_formula
from .._types import CosSin, Tensors
from .dispatch import STRIDES, below, implement
from .norm_gradient import NORM, Weights, checked, norm_rotate_backward, wants_gradient

_SCHEMAS = (
    f"norm_rotate(Tensor[] xs, Tensor?[] weights, Tensor[] tables, {NORM}) -> Tensor[]",
    f"norm_rotate_(Tensor(a!)[] xs, Tensor?[] weights, Tensor[] tables, {NORM}) -> ()",
)


def norm_rotate(
    xs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm,
    *,
    seq_dim: int,
    interleaved: bool,
    in_place: bool,
) -> Tensors:
    """_fused.autograd.norm_rotate by way of the operator: the same arguments, errors and bits."""
    flat = [t for table in tables for t in table]
    if not in_place:
        return tuple(_norm_rotate(list(xs), list(weights), flat, *norm, seq_dim, interleaved))
    autograd.check_in_place(xs, torch.is_grad_enabled() and autograd.wants_gradient(xs, weights, tables))
    _norm_rotate_in_place(list(xs), list(weights), flat, *norm, seq_dim, interleaved)
    return xs


# --- implementations, by dispatch key; the arguments are those of the schemas: `how` is eps, weight_offset, model, after ----------------


def _run(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> list[Tensor]:
    norm, seq_dim, interleaved = checked(xs, weights, tables, how)
    outs = [torch.empty_like(x) for x in xs]
    autograd.run(backends.chosen(), tuple(xs), tuple(outs), tuple(weights), pairs(tables), norm, seq_dim, interleaved)
    return outs


def _run_in_place(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> None:
    norm, seq_dim, interleaved = checked(xs, weights, tables, how)
    overlap.check(tuple(xs), autograd.NAMES[-len(xs) :])  # at run time: memory is not known while a compiler traces
    autograd.run(backends.chosen(), tuple(xs), tuple(xs), tuple(weights), pairs(tables), norm, seq_dim, interleaved)


def _differentiable(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> list[Tensor]:
    """The autograd implementation, eagerly and while a compiler traces the backward pass."""
    formula = tables_need_formula(tables)
    if not formula and wants_gradient(xs, weights, tables):
        return list(_NormRotateByOperator.apply(how, len(xs), *xs, *weights, *tables))
    return below(_norm_rotate, _formula, formula, xs, weights, tables, *how)


def _differentiable_in_place(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> None:
    autograd.check_in_place(tuple(xs), wants_gradient(xs, weights, tables))
    below(_norm_rotate_in_place, _formula_in_place, tables_need_formula(tables), xs, weights, tables, *how)


def _formula(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> list[Tensor]:
    norm, seq_dim, interleaved = checked(xs, weights, tables, how)
    ys = autograd.by_formula(
        tuple(xs),
        tuple(weights),
        pairs(tables),
        norm,
        seq_dim=seq_dim,
        interleaved=interleaved,
        in_place=False,
    )
    return list(ys)


def _formula_in_place(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> None:
    for x, y in zip(xs, _formula(xs, weights, tables, *how), strict=True):
        x.copy_(y)


class _NormRotateByOperator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: tuple[Any, ...], count: int, *tensors: Any) -> Tensors:
        xs, weights, tables = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        outs = tuple(_norm_rotate(list(xs), list(weights), list(tables), *how))
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*autograd.constant(xs, weights, outs))
        ctx.how, ctx.count = how, count
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved, count = ctx.saved_tensors, ctx.count
        asked = [i for i, grad in enumerate(grads) if grad is not None]
        of_xs: list[Tensor | None] = [None] * count
        of_weights: list[Tensor | None] = [None] * count
        if asked:
            wanted = [ctx.needs_input_grad[2 + count + i] for i in asked]
            gradients = norm_rotate_backward(
                [grads[i] for i in asked],
                [saved[i] for i in asked],
                [saved[count + i] for i in asked],
                [t for i in asked for t in saved[2 * count + 2 * i : 2 * count + 2 * i + 2]],
                wanted,
                *ctx.how,
            )
            for i, of_x in zip(asked, gradients, strict=False):
                of_xs[i] = of_x
            with_weight = [i for i, want in zip(asked, wanted, strict=True) if want]
            for i, of_weight in zip(with_weight, gradients[len(asked) :], strict=True):
                of_weights[i] = of_weight
        return None, None, *of_xs, *of_weights, *(None,) * (2 * count)


# --- fakes: shapes, dtypes and strides of the outputs --------------------------------------------------------------------------------


def _fake(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> list[Tensor]:
    checked(xs, weights, tables, how)
    return [torch.empty_like(x) for x in xs]


def _fake_in_place(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> None:
    checked(xs, weights, tables, how)


def _register() -> torch.library.Library:
    library = torch.library.Library("rotary", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag, STRIDES))
    for name, plain, differentiable, formula, fake in (
        ("norm_rotate", _run, _differentiable, _formula, _fake),
        ("norm_rotate_", _run_in_place, _differentiable_in_place, _formula_in_place, _fake_in_place),
    ):
        implement(library, name, plain, differentiable, formula, fake)
    return library


# torch allows one definition for the life of a process: a module that is imported again finds it.
if not hasattr(torch.ops.rotary, "norm_rotate"):
    _library = _register()  # keep a reference: deleting the Library unregisters its operators
_norm_rotate = torch.ops.rotary.norm_rotate.default
_norm_rotate_in_place = torch.ops.rotary.norm_rotate_.default
