"""A process's part of a pair of tables, and the DTensors that are made of such parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._types import CosSin, Sizes
from .dtensor import distributed, local_part, strided_shard
from .placed import Placed, part_of


class Part(NamedTuple):
    """cos and sin of the rows that this process holds, the shape of the whole table, and its placements."""

    table: CosSin
    shape: Sizes
    placed: Placed


def part_for(table: CosSin, x: Placed, seq_dim: int, name: str) -> Part:
    """The part of a table that belongs to this process's part of x."""
    shape = tuple(table[0].shape)
    place = x.for_value(shape, dims_of(shape, seq_dim), seq_dim)
    cos, sin = (part_of(what, t, place, name) for what, t in zip(("cos", "sin"), table, strict=True))
    return Part((cos, sin), shape, place)


def dims_of(shape: Sizes, seq_dim: int) -> dict[int, int]:
    """Dimension of a table (seq, P) or (batch, seq, P) -> dimension of x that it corresponds to."""
    return {0: seq_dim} if len(shape) == 2 else {0: 0, 1: seq_dim}


def as_dtensor(t: Tensor, like: Any) -> Any:
    """t as a DTensor: itself, or, if it is plain and the same in every process, replicated over the mesh of `like`."""
    return t if distributed(t) else replicated(t, like.device_mesh)


def dtensors_of(part: Part) -> tuple[Any, Any]:
    """The DTensors cos and sin whose part in this process is given."""
    placements = placements_of(part.placed)
    cos, sin = (_dtensor(t, part.shape, part.placed.mesh, placements) for t in part.table)
    return cos, sin


def _dtensor(t: Tensor, shape: Sizes, mesh: Any, placements: Any) -> Any:
    from torch.distributed.tensor import DTensor

    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(n, 1))
    return DTensor.from_local(
        t.contiguous(), mesh, placements, run_check=False, shape=torch.Size(shape), stride=tuple(strides)
    )


def replicated(t: Tensor, mesh: Any) -> Any:
    """A plain tensor that is the same in every process, as a replicated DTensor."""
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(t, mesh, [Replicate()] * mesh.ndim, run_check=False)


def redistributed(part: Part, wanted: Placed) -> Part:
    """The part of the same table under other placements; parts of the table are sent where they differ."""
    with torch.no_grad():
        cos, sin = (local_part(t.redistribute(placements=placements_of(wanted))) for t in dtensors_of(part))
    return Part((cos, sin), part.shape, wanted)


def placements_of(place: Placed) -> list[Any]:
    """The same as torch's placement objects."""
    from torch.distributed.tensor import Replicate, Shard

    return [
        Replicate() if c is None else Shard(c.dim) if c.factor == 1 else strided_shard(c.dim, c.factor)
        for c in place.cuts
    ]
