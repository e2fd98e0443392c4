"""Norm and rotation as operators registered with torch: one node that a compiler leaves whole, with the kernel of the device inside.

    torch.ops.rotary.norm_rotate             fresh outputs, q and k in one launch
    torch.ops.rotary.norm_rotate_            the same, written over q and k
    torch.ops.rotary.norm_rotate_backward    the gradients of the first: of xs, then of the weights

The functions of rotary.fused are these operators under torch.compile, where that is faster than the formula (docs/design/0013), and the
formula under torch.export. Gradients of tables, forward mode, functorch's transforms and batched gradients use the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _inputs, _torch
from .._fused import autograd, backends
from .._fused.work import Norm
from .._inputs.fused import for_norm_operator
from .._rotation import overlap
from .._rotation.autograd import pairs, tables_need_formula
from .._types import CosSin, Tensors
from .rotation import STRIDES

Weights = tuple[Tensor | None, ...]
NORM = "float eps, float weight_offset, bool model, bool after, int seq_dim, bool interleaved"
_SCHEMAS = (
    f"norm_rotate(Tensor[] xs, Tensor?[] weights, Tensor[] tables, {NORM}) -> Tensor[]",
    f"norm_rotate_(Tensor(a!)[] xs, Tensor?[] weights, Tensor[] tables, {NORM}) -> ()",
    f"norm_rotate_backward(Tensor[] grads, Tensor[] xs, Tensor?[] weights, Tensor[] tables, bool[] wanted, {NORM}) -> Tensor[]",
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
    norm, seq_dim, interleaved = _checked(xs, weights, tables, how)
    outs = [torch.empty_like(x) for x in xs]
    autograd.run(backends.chosen(), tuple(xs), tuple(outs), tuple(weights), pairs(tables), norm, seq_dim, interleaved)
    return outs


def _run_in_place(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> None:
    norm, seq_dim, interleaved = _checked(xs, weights, tables, how)
    overlap.check(tuple(xs), autograd.NAMES[-len(xs) :])  # at run time: memory is not known while a compiler traces
    autograd.run(backends.chosen(), tuple(xs), tuple(xs), tuple(weights), pairs(tables), norm, seq_dim, interleaved)


def _run_backward(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    norm, seq_dim, interleaved = _checked(xs, weights, tables, how)
    _check_gradients(grads, xs, weights, wanted)
    of_xs, of_weights = autograd.run_backward(
        backends.chosen(),
        tuple(grads),
        tuple(xs),
        _asked(weights, wanted),
        tuple(weights),
        pairs(tables),
        norm,
        seq_dim,
        interleaved,
    )
    return [t for t in (*of_xs, *of_weights) if t is not None]


def _differentiable(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> list[Tensor]:
    """The autograd implementation, eagerly and while a compiler traces the backward pass."""
    formula = tables_need_formula(tables)
    if not formula and _wanted(xs, weights, tables):
        return list(_NormRotateByOperator.apply(how, len(xs), *xs, *weights, *tables))
    return below(_norm_rotate, _formula, formula, xs, weights, tables, *how)


def _differentiable_in_place(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> None:
    autograd.check_in_place(tuple(xs), _wanted(xs, weights, tables))
    below(_norm_rotate_in_place, _formula_in_place, tables_need_formula(tables), xs, weights, tables, *how)


def _differentiable_backward(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    formula = tables_need_formula(tables) or _wanted((*grads, *xs), weights, tables)
    return below(_backward, _formula_backward, formula, grads, xs, weights, tables, wanted, *how)


def below(operator: Any, formula: Any, by_formula: bool, *arguments: Any) -> Any:
    """The operator called again past its autograd implementation, or the formula where that is needed."""
    past = None if by_formula else _torch.below_autograd()
    if past is None:
        return formula(*arguments)
    with past:
        return operator(*arguments)


def _formula(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any
) -> list[Tensor]:
    norm, seq_dim, interleaved = _checked(xs, weights, tables, how)
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


def _formula_backward(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    norm, seq_dim, interleaved = _checked(xs, weights, tables, how)
    _check_gradients(grads, xs, weights, wanted)
    of_xs, of_weights = autograd.backward_by_formula(
        tuple(grads), tuple(xs), _asked(weights, wanted), tuple(weights), pairs(tables), norm, seq_dim, interleaved
    )
    return [t for t in (*of_xs, *of_weights) if t is not None]


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
            found = _backward(
                [grads[i] for i in asked],
                [saved[i] for i in asked],
                [saved[count + i] for i in asked],
                [t for i in asked for t in saved[2 * count + 2 * i : 2 * count + 2 * i + 2]],
                wanted,
                *ctx.how,
            )
            for i, of_x in zip(asked, found, strict=False):
                of_xs[i] = of_x
            with_weight = [i for i, want in zip(asked, wanted, strict=True) if want]
            for i, of_weight in zip(with_weight, found[len(asked) :], strict=True):
                of_weights[i] = of_weight
        return None, None, *of_xs, *of_weights, *(None,) * (2 * count)


# --- checks: exported programs call operators by name, without those of the functions ------------------------------------------------


def _checked(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], how: tuple[Any, ...]
) -> tuple[Norm, int, bool]:
    *numbers, seq_dim, interleaved = how
    _inputs.for_operator(xs, tables, seq_dim)
    return for_norm_operator(xs, weights, *numbers), seq_dim, interleaved


def _check_gradients(
    grads: Sequence[Tensor], xs: Sequence[Tensor], weights: Sequence[Tensor | None], wanted: Sequence[bool]
) -> None:
    if [(g.shape, g.dtype, g.device) for g in grads] != [(x.shape, x.dtype, x.device) for x in xs]:
        raise ValueError(
            f"gradients {[tuple(g.shape) for g in grads]} do not have the shapes, dtypes and devices of xs "
            f"{[tuple(x.shape) for x in xs]}"
        )
    if len(wanted) != len(weights) or any(
        want and weight is None for want, weight in zip(wanted, weights, strict=True)
    ):
        raise ValueError(
            f"gradients are wanted of {list(wanted)}, where weights are {[w is not None for w in weights]}"
        )


def _asked(weights: Sequence[Tensor | None], wanted: Sequence[bool]) -> Weights:
    return tuple(weight if want else None for weight, want in zip(weights, wanted, strict=True))


def _wanted(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and autograd.wants_gradient(tuple(xs), tuple(weights), pairs(tables))


# --- fakes: shapes, dtypes and strides of the outputs --------------------------------------------------------------------------------


def _fake(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> list[Tensor]:
    _checked(xs, weights, tables, how)
    return [torch.empty_like(x) for x in xs]


def _fake_in_place(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], *how: Any) -> None:
    _checked(xs, weights, tables, how)


def _fake_backward(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    _checked(xs, weights, tables, how)
    _check_gradients(grads, xs, weights, wanted)
    return [torch.empty_like(t) for t in (*xs, *_asked(weights, wanted)) if t is not None]


def _register() -> torch.library.Library:
    library = torch.library.Library("rotary", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag, STRIDES))
    batched = ("FuncTorchBatched", "Batched")
    for name, plain, autograd_key, formula, fake in (
        ("norm_rotate", _run, _differentiable, _formula, _fake),
        ("norm_rotate_", _run_in_place, _differentiable_in_place, _formula_in_place, _fake_in_place),
        ("norm_rotate_backward", _run_backward, _differentiable_backward, _formula_backward, _fake_backward),
    ):
        torch.library.register_fake(f"rotary::{name}", fake, lib=library)
        _torch.implement(library, name, plain, ("CompositeExplicitAutograd",))
        _torch.implement(library, name, autograd_key, ("Autograd",))
        _torch.implement(library, name, formula, batched)
    return library


# torch allows one definition for the life of a process: a module that is imported again finds it.
if not hasattr(torch.ops.rotary, "norm_rotate"):
    _library = _register()  # keep a reference: deleting the Library unregisters its operators
_norm_rotate = torch.ops.rotary.norm_rotate.default
_norm_rotate_in_place = torch.ops.rotary.norm_rotate_.default
_backward = torch.ops.rotary.norm_rotate_backward.default
