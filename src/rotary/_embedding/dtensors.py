"""RotaryEmbedding's rotate and cos_sin for distributed tensors (DTensor), by the part that each process holds.

Plain tensors of positions, offsets and lengths are the same in every process; positions count along the whole tensor. Each process makes
tables of its own rows and rotates its own part, without communication. See _subclasses/placed.py and _rotation/shards.py.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import _inputs
from .._angles.cos_sin import Tables
from .._inputs.parts import PartCall, for_cos_sin_part, for_rotate_parts
from .._rotation import autograd, shards
from .._subclasses.parts import Part, dtensors_of
from .._torch import tracing
from .._types import CosSin, Role


def rotate(
    tables: Tables,
    q: Any,
    k: Any,
    *,
    dim: int,
    coordinates: int,
    use_xpos: bool,
    interleaved: bool,
    conjugate: bool,
    inplace: bool,
    **arguments: Any,
) -> Any:
    """RotaryEmbedding.rotate for DTensors q and k."""
    xs, names = ((q,), ("q",)) if k is None else ((q, k), ("q", "k"))
    placements = shards.check(xs, names)
    calls = for_rotate_parts(q, k, placements, dim=dim, coordinates=coordinates, use_xpos=use_xpos, **arguments)
    axis, n = calls[0].seq_dim, q.shape[calls[0].seq_dim]
    parts: list[Part] = []
    first: Any = None
    for x, call in zip(xs, calls, strict=True):
        if parts and call is calls[0] and not use_xpos:
            table = first
        else:
            role = call.role if k is None else "key" if x is k else "query"
            first = table = _table(tables, call, role, q.dtype)
        shape = (*call.shape, table[0].shape[-1])
        if x is q and k is not None:
            table = _inputs.last_rows(table, n, k.shape[axis])
            shape = (*shape[:-2], n, shape[-1])
        parts.append(Part(table, shape, call.placed))
    how: autograd.How = {"seq_dim": axis, "interleaved": interleaved, "conjugate": conjugate}
    if tracing() or any(t.requires_grad for part in parts for t in part.table):
        whole = tuple([dtensors_of(part) for part in parts])
        ys = autograd.by_operator(xs, whole, axis, interleaved, conjugate, inplace)
    else:
        ys = shards.rotate_parts(xs, tuple(parts), how, in_place=inplace, names=names)
    return ys[0] if k is None else (ys[0], ys[1])


def _table(tables: Tables, call: PartCall, role: Role, input_dtype: torch.dtype) -> CosSin:
    return tables.at(
        call.positions,
        torch.float64 if input_dtype == torch.float64 else torch.float32,
        coordinates=call.coordinates,
        role=role,
        length=call.length,
        position_range=call.position_range,
        input_dtype=input_dtype,
        traced=call.traced,
        part=call.position_range is None,
    )


def cos_sin(
    tables: Tables, positions: Any, dtype: torch.dtype, *, dim: int, coordinates: int, use_xpos: bool, **arguments: Any
) -> CosSin:
    """RotaryEmbedding.cos_sin for DTensor positions: tables placed as they are, with a batch of its own for a length (batch,)."""
    call = for_cos_sin_part(positions, coordinates=coordinates, use_xpos=use_xpos, **arguments)
    cos, sin = tables.at(
        call.positions,
        dtype,
        coordinates=call.coordinates,
        role=call.role,
        length=call.length,
        traced=call.traced,
        part=True,
    )
    shape, place = (*call.shape, cos.shape[-1]), call.placed
    if cos.ndim > len(shape):  # positions (seq,) under a length for each row of a batch
        place = place.for_value((cos.shape[0], *shape), {1: 0}, 0)
        shape = (cos.shape[0], *shape)
    return dtensors_of(Part((cos, sin), shape, place))
