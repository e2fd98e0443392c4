"""The rotation registered with torch: schemas, implementations by dispatch key, and the gradient.

    torch.ops.rotary.rotate                fresh outputs, q and k in one launch
    torch.ops.rotary.rotate_               the same, written over q and k
    torch.ops.rotary.rotate_by_formula     the formula under a name, for ONNX

The backward pass is the same operator with `conjugate` inverted, and saves cos and sin alone. Forward mode, functorch's transforms,
batched gradients and tables that require a gradient use the formula instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _inputs, _torch
from .._rotation import autograd, backends, eager, overlap
from .._rotation.autograd import (
    How,
    by_formula,
    needs_formula,
    over_by_formula,
    pairs,
    readable,
    tables_need_formula,
)
from .._subclasses.dtensor import distributed, dtensor_class
from .._torch import tracing, watched
from .._types import CosSin, Tensors
from .dispatch import STRIDES, below, implement

# Lists, since queries and keys go in one launch whether there are keys or not. `tables` holds cos, sin for each of xs.
_SCHEMAS = (
    "rotate(Tensor[] xs, Tensor[] tables, int seq_dim, bool interleaved, bool conjugate) -> Tensor[]",
    "rotate_(Tensor(a!)[] xs, Tensor[] tables, int seq_dim, bool interleaved, bool conjugate) -> ()",
)
# The formula under a name, for ONNX: the exporter writes it as one node where rotary.onnx says how, and takes it apart where nothing
# does, because it is composite.
_FORMULA_SCHEMA = (
    "rotate_by_formula(Tensor[] xs, Tensor[] tables, int seq_dim, bool interleaved, bool conjugate) -> Tensor[]"
)


def rotate(
    xs: Tensors, tables: tuple[CosSin, ...], seq_dim: int, interleaved: bool, conjugate: bool, in_place: bool
) -> Tensors:
    """_rotation.autograd.rotate by way of the operator: the same arguments, errors and bits."""
    if _torch.onnx_exporting():
        return autograd.rotate(
            xs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate, in_place=in_place
        )
    flat = [t for table in tables for t in table]
    if not in_place:
        return tuple(_rotate(list(xs), flat, seq_dim, interleaved, conjugate))
    _rotate_in_place(list(xs), flat, seq_dim, interleaved, conjugate)
    return xs


# --- implementations, by dispatch key; the arguments are those of the schemas -------------------------------------------------------


def _run(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> list[Tensor]:
    _inputs.for_operator(xs, tables, seq_dim)
    outs = [torch.empty_like(x) for x in xs]
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    backends.run(backends.chosen(), tuple(xs), tuple(outs), pairs(tables), **how)
    return outs


def _run_in_place(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> None:
    _inputs.for_operator(xs, tables, seq_dim)
    overlap.check(tuple(xs), _checks.names_of(xs))  # at run time: memory is not known while a compiler traces
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    backends.run(backends.chosen(), tuple(xs), tuple(xs), pairs(tables), **how)


def _differentiable(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> list[Tensor]:
    """The autograd implementation, eagerly and while a compiler traces the backward pass."""
    if distributed(*xs, *tables):
        _inputs.for_operator(xs, tables, seq_dim)
        from .._rotation import shards  # few processes have DTensors

        return shards.by_operator(_rotate, xs, tables, seq_dim, interleaved, conjugate)
    grad, formula = torch.is_grad_enabled(), tables_need_formula(tables)
    if grad and not formula and any(x.requires_grad for x in xs):
        return list(_RotateByOperator.apply(seq_dim, interleaved, conjugate, len(xs), *xs, *tables))
    if not needs_formula(tuple(xs), pairs(tables), grad) and not watched():
        return _run(
            xs, tables, seq_dim, interleaved, conjugate
        )  # plain tensors need no second pass through the dispatcher
    return below(_rotate, _formula, formula, xs, tables, seq_dim, interleaved, conjugate)


def _differentiable_in_place(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> None:
    if distributed(*xs, *tables):
        _inputs.for_operator(xs, tables, seq_dim)
        from .._rotation import shards  # few processes have DTensors

        shards.by_operator(_rotate_in_place, xs, tables, seq_dim, interleaved, conjugate)
        return
    grad = torch.is_grad_enabled()
    needs_grad = grad and any(x.requires_grad for x in xs)
    if not (needs_grad or watched() or needs_formula(tuple(xs), pairs(tables), grad)):
        _run_in_place(xs, tables, seq_dim, interleaved, conjugate)
        return
    formula = tables_need_formula(tables)
    if (formula or needs_grad) and not tracing():
        overlap.check(tuple(xs), _checks.names_of(xs))
    if needs_grad and not formula:  # a graph needs outputs of its own, which are copied over xs
        for x, y in zip(
            xs, _RotateByOperator.apply(seq_dim, interleaved, conjugate, len(xs), *xs, *tables), strict=True
        ):
            x.copy_(y)
        return
    below(_rotate_in_place, _formula_in_place, formula, xs, tables, seq_dim, interleaved, conjugate)


def _formula(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> list[Tensor]:
    _inputs.for_operator(xs, tables, seq_dim)
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    return list(by_formula(tuple(xs), pairs(tables), how))


def _exported_formula(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> list[Tensor]:
    """The formula without a look at strides: ONNX has none, and its exporter cannot write the question whether an example has them."""
    _inputs.for_operator(xs, tables, seq_dim)
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    return [eager.formula(x, *table, **how) for x, table in zip(xs, pairs(tables), strict=True)]


def _formula_in_place(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> None:
    _inputs.for_operator(xs, tables, seq_dim)
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    over_by_formula(tuple(xs), pairs(tables), how)


class _RotateByOperator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, seq_dim: int, interleaved: bool, conjugate: bool, count: int, *tensors: Tensor) -> Tensors:
        xs, tables = tensors[:count], tensors[count:]
        outs = _rotate(list(xs), list(tables), seq_dim, interleaved, conjugate)
        ctx.save_for_backward(*tables)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.seq_dim, ctx.interleaved, ctx.conjugate, ctx.count = seq_dim, interleaved, conjugate, count
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        tables = ctx.saved_tensors
        incoming = {i: readable(grad) for i, grad in enumerate(grads) if grad is not None}
        rotated: list[Tensor | None] = [None] * ctx.count
        if incoming:
            flat = [t for i in incoming for t in tables[2 * i : 2 * i + 2]]
            ys = _rotate(list(incoming.values()), flat, ctx.seq_dim, ctx.interleaved, not ctx.conjugate)
            for i, y in zip(incoming, ys, strict=True):
                rotated[i] = y
        return None, None, None, None, *rotated, *(None,) * len(tables)


def _fake(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> list[Tensor]:
    """Shapes, dtypes and strides of the outputs, for fake tensors."""
    _inputs.for_operator(xs, tables, seq_dim)
    return [torch.empty_like(x) for x in xs]


def _fake_in_place(
    xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> None:
    _inputs.for_operator(xs, tables, seq_dim)


def _register() -> torch.library.Library:
    library = torch.library.Library("rotary", "DEF")
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag, STRIDES))
    library.define(_FORMULA_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl("rotate_by_formula", _exported_formula, "CompositeImplicitAutograd")
    implement(library, "rotate", _run, _differentiable, _formula, _fake)
    implement(library, "rotate_", _run_in_place, _differentiable_in_place, _formula_in_place, _fake_in_place)
    return library


# torch allows one definition for the life of a process: a module that is imported again (autoreload, an emptied sys.modules) finds it.
if not hasattr(torch.ops.rotary, "rotate"):
    _library = _register()  # keep a reference: deleting the Library unregisters its operators
_rotate = torch.ops.rotary.rotate.default
_rotate_in_place = torch.ops.rotary.rotate_.default
if dtensor_class() is not None:
    from .._rotation import shards

    shards.register()
