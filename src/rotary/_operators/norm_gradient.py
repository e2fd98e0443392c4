"""The gradient of norm and rotation as an operator registered with torch.

torch.ops.rotary.norm_rotate_backward    the gradients of norm_rotate: of xs, then of the weights for which `wanted` is true
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _inputs
from .._fused import autograd, backends
from .._fused.work import Norm
from .._inputs.fused import for_norm_operator
from .._rotation.autograd import pairs, tables_need_formula
from .dispatch import STRIDES, below, implement

Weights = tuple[Tensor | None, ...]
NORM = "float eps, float weight_offset, bool model, bool after, int seq_dim, bool interleaved"
"""The arguments that the schemas of norm and gradient share; `how` in the implementations."""
_SCHEMA = f"norm_rotate_backward(Tensor[] grads, Tensor[] xs, Tensor?[] weights, Tensor[] tables, bool[] wanted, {NORM}) -> Tensor[]"


def _run(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    norm, seq_dim, interleaved = checked(xs, weights, tables, how)
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
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    formula = tables_need_formula(tables) or wants_gradient((*grads, *xs), weights, tables)
    return below(norm_rotate_backward, _formula, formula, grads, xs, weights, tables, wanted, *how)


def _formula(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    norm, seq_dim, interleaved = checked(xs, weights, tables, how)
    _check_gradients(grads, xs, weights, wanted)
    of_xs, of_weights = autograd.backward_by_formula(
        tuple(grads), tuple(xs), _asked(weights, wanted), tuple(weights), pairs(tables), norm, seq_dim, interleaved
    )
    return [t for t in (*of_xs, *of_weights) if t is not None]


def _fake(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    wanted: Sequence[bool],
    *how: Any,
) -> list[Tensor]:
    checked(xs, weights, tables, how)
    _check_gradients(grads, xs, weights, wanted)
    return [torch.empty_like(t) for t in (*xs, *_asked(weights, wanted)) if t is not None]


# --- checks: exported programs call operators by name, without those of the functions ------------------------------------------------


def checked(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor], how: tuple[Any, ...]
) -> tuple[Norm, int, bool]:
    """(norm, seq_dim, interleaved) of the arguments `how`, after the checks of xs, weights and tables."""
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
    """The weights whose gradient is wanted, None for the others."""
    return tuple(weight if want else None for weight, want in zip(weights, wanted, strict=True))


def wants_gradient(xs: Sequence[Tensor], weights: Sequence[Tensor | None], tables: Sequence[Tensor]) -> bool:
    """True if autograd records this call."""
    return torch.is_grad_enabled() and autograd.wants_gradient(tuple(xs), tuple(weights), pairs(tables))


def _register() -> torch.library.Library:
    library = torch.library.Library("rotary", "FRAGMENT")
    library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag, STRIDES))
    implement(library, "norm_rotate_backward", _run, _differentiable, _formula, _fake)
    return library


# torch allows one definition for the life of a process: a module that is imported again finds it.
if not hasattr(torch.ops.rotary, "norm_rotate_backward"):
    _library = _register()  # keep a reference: deleting the Library unregisters its operators
norm_rotate_backward = torch.ops.rotary.norm_rotate_backward.default
