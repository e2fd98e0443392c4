"""The write into a cache as an operator registered with torch, with the rotation before it and, where an eps is given, the norm.

    torch.ops.rotary.rotate_and_store        rotated xs, into outs, keys and values into a cache

rotary.fused calls it under torch.compile. It has no gradient and no formula: what writes into a cache is one node or an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _inputs, _torch
from .._fused import storing
from .._fused.eager import Weights
from .._fused.work import Norm, Store
from .._inputs.fused import for_norm_operator, for_store
from .._rotation.autograd import pairs
from .._types import CosSin, Tensors
from .dispatch import STRIDES, below

_SCHEMA = (
    # Outputs are arguments: functionalization takes no operator that both returns tensors and writes into others.
    "rotate_and_store(Tensor[] xs, Tensor(a!)[] outs, Tensor?[] weights, Tensor[] tables, Tensor v, Tensor(b!) cache_k, "
    "Tensor(c!) cache_v, Tensor slots, float? eps, float weight_offset, bool model, bool after, int seq_dim, bool interleaved) -> ()"
)


def store(
    xs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm | None,
    stored: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    seq_dim: int,
    interleaved: bool,
    in_place: bool,
) -> Tensors:
    """storing.store by way of the operator. stored: v, cache_k, cache_v, slots (batch, seq)."""
    storing.check_no_graph(xs, weights, tables, stored[0])
    flat = [t for table in tables for t in table]
    how = (None, 0.0, False, False) if norm is None else norm
    outs = [torch.empty_like(x) for x in xs]
    _rotate_and_store(list(xs), outs, list(weights), flat, *stored, *how, seq_dim, interleaved)
    if not in_place:
        return tuple(outs)
    for x, y in zip(xs, outs, strict=True):
        x.copy_(y)
    return xs


def _run(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    v: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    slots: Tensor,
    *how: Any,
) -> None:
    norm, stored, seq_dim, interleaved = _checked(xs, outs, weights, tables, v, cache_k, cache_v, slots, how)
    storing.check_store(tuple(xs), stored, False)
    storing.run(tuple(xs), tuple(outs), tuple(weights), pairs(tables), norm, stored, seq_dim, interleaved)
    for out in outs:  # the caller's memory, and a kernel that is given fresh outputs counts no write
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)


def _without_gradient(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    v: Tensor,
    *how: Any,
) -> None:
    storing.check_no_graph((*xs, *outs), tuple(weights), pairs(tables), v)
    below(_rotate_and_store, _run, False, xs, outs, weights, tables, v, *how)


def _checked(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    v: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    slots: Tensor,
    how: tuple[Any, ...],
) -> tuple[Norm | None, Store, int, bool]:
    *numbers, seq_dim, interleaved = how
    _inputs.for_operator(xs, tables, seq_dim)
    if [(out.shape, out.dtype, out.device) for out in outs] != [(x.shape, x.dtype, x.device) for x in xs]:
        raise ValueError(
            f"outs {[tuple(out.shape) for out in outs]} do not have the shapes, dtypes and devices of xs {[tuple(x.shape) for x in xs]}"
        )
    norm = None if numbers[0] is None else for_norm_operator(xs, weights, *numbers)
    return norm, for_store(xs[-1], v, cache_k, cache_v, slots, seq_dim), seq_dim, interleaved


def _fake(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    tables: Sequence[Tensor],
    v: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    slots: Tensor,
    *how: Any,
) -> None:
    _checked(xs, outs, weights, tables, v, cache_k, cache_v, slots, how)


def _register() -> torch.library.Library:
    library = torch.library.Library("rotary", "FRAGMENT")
    library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag, STRIDES))
    torch.library.register_fake("rotary::rotate_and_store", _fake, lib=library)
    _torch.implement(library, "rotate_and_store", _run, ("CompositeExplicitAutograd",))
    _torch.implement(library, "rotate_and_store", _without_gradient, ("Autograd",))
    return library


# torch allows one definition for the life of a process: a module that is imported again finds it.
if not hasattr(torch.ops.rotary, "rotate_and_store"):
    _library = _register()  # keep a reference: deleting the Library unregisters its operators
_rotate_and_store = torch.ops.rotary.rotate_and_store.default
