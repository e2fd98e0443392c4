"""Which indices of a distributed tensor (DTensor) this process holds, and the same part of positions, lengths and tables.

A DTensor has the shape of the whole tensor. Its placements say, for each dimension of a mesh of processes, whether the processes along it
hold slices of one dimension of the tensor (Shard), copies (Replicate), or summands (Partial). A value that belongs to x is cut as x is:

    value                       its dimensions correspond to
    positions, tables           (seq, ...): the sequence of x; (batch, seq, ...): batch and sequence of x
    offset, length (batch,)     the batch of x

A plain value is the same in every process and is cut here, without communication. A batch dimension of size 1 serves all rows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dtensor import distributed, local_part, ordered

Runs = list[tuple[int, int]]
"""Ascending indices, as half-open ranges (first, end)."""


class Cut(NamedTuple):
    """One mesh dimension cuts the tensor along its dimension dim. factor > 1: a strided shard (torch's _StridedShard)."""

    dim: int
    factor: int = 1


class Placed(NamedTuple):
    """The placements of a tensor: for each dimension of the mesh how it cuts the tensor, None for Replicate and Partial."""

    mesh: Any
    cuts: tuple[Cut | None, ...]

    def cut_at(self, dim: int) -> bool:
        """True if a dimension of the mesh cuts the tensor along dim."""
        return any(cut is not None and cut.dim == dim for cut in self.cuts)

    def runs(self, n: int, dim: int) -> Runs:
        """The indices along dim, out of n, that this process holds."""
        return _kept([(0, n)], self, dim, 0)

    def for_value(self, shape: Sequence[int], dims: Mapping[int, int], seq_dim: int) -> Placed:
        """The placements of a value that belongs to this tensor. dims: dimension of the value -> dimension of this tensor."""
        value_dim = {
            of_tensor: of_value for of_value, of_tensor in dims.items() if shape[of_value] != 1 or of_tensor == seq_dim
        }
        cuts = [None if c is None or c.dim not in value_dim else Cut(value_dim[c.dim], c.factor) for c in self.cuts]
        return Placed(self.mesh, tuple(cuts))


def placed(name: str, x: Any) -> Placed:
    """The placements of the DTensor x. ValueError for kinds other than Shard, Replicate and Partial."""
    cuts, wrong = _cuts(x.placements, x.ndim)
    if wrong or not (torch.compiler.is_compiling() or ordered(x)):  # the operator asks when it runs
        raise ValueError(
            f"{name} has placements {_shown(x)}, which are not Shard, Replicate or Partial, or cut one dimension along several of the mesh "
            f"in another order than from its first to its last: redistribute it first"
        )
    return Placed(x.device_mesh, cuts)


def rotatable(name: str, x: Any) -> Placed:
    """The placements of x, if each process can rotate its part alone. ValueError if x is cut along channels, or holds summands of
    a reduction that is not linear."""
    place = placed(name, x)
    if place.cut_at(x.ndim - 1):
        raise ValueError(
            f"{name} with shape {tuple(x.shape)} has placements {_shown(x)}, cut along its channels, and a process needs both channels "
            f"of a plane: redistribute it to be cut along heads, batch or sequence, or to Replicate()"
        )
    if None in place.cuts:
        for p in x.placements:
            if p.is_partial() and p.reduce_op not in ("sum", "avg"):
                raise ValueError(
                    f"{name} with shape {tuple(x.shape)} has placements {_shown(x)}: a rotation goes with sums and averages, not with "
                    f"{p.reduce_op!r}: redistribute it to Replicate() or a Shard first"
                )
    return place


def _cuts_of(placements: Sequence[Any], ndim: int) -> tuple[tuple[Cut | None, ...], bool]:
    """How each dimension of the mesh cuts a tensor, and whether the kind of a placement is unknown."""
    cuts: list[Cut | None] = []
    wrong = False
    for p in placements:
        kind = type(p).__name__
        if kind in ("Shard", "_StridedShard"):
            cuts.append(Cut(p.dim + ndim if p.dim < 0 else p.dim, getattr(p, "split_factor", 1)))
        else:
            cuts.append(None)
            wrong |= kind not in ("Replicate", "Partial")
    return tuple(cuts), wrong


_cached_cuts = functools.lru_cache(maxsize=256)(_cuts_of)


def _cuts(placements: Sequence[Any], ndim: int) -> tuple[tuple[Cut | None, ...], bool]:
    # In torch 2.6 a strided shard equals the plain one, so that a cache cannot tell them apart.
    if torch.compiler.is_compiling() or any([type(p).__name__ == "_StridedShard" for p in placements]):  # noqa: C419
        return _cuts_of(placements, ndim)
    return _cached_cuts(placements, ndim)


def same_mesh(name: str, value: Any, x_name: str, mesh: Any) -> None:
    """ValueError if the DTensor value is on another mesh."""
    if value.device_mesh != mesh:
        raise ValueError(
            f"{name} is on {value.device_mesh}, {x_name} on {mesh}: distribute both over one mesh, or give {name} as a plain tensor, "
            f"alike in every process"
        )


def part_of(name: str, value: Any, wanted: Placed, x_name: str) -> Tensor:
    """This process's part of a value whose placements must be `wanted`.

    A plain value is cut. A DTensor must be replicated or cut as wanted, at least along the first dimensions of the mesh: ValueError
    otherwise, since its parts would have to be sent. The decision reads placements alone, so that all processes raise or none.
    """
    if type(value) is Tensor or not distributed(value):
        return _taken(value, wanted, [0] * value.ndim)
    same_mesh(name, value, x_name, wanted.mesh)
    if any(p.is_partial() for p in value.placements):
        raise ValueError(
            f"{name} has placements {_shown(value)}, summands that are not reduced yet: redistribute it first"
        )
    done = [0] * value.ndim  # for each dimension of the value, how many dimensions of the mesh have cut it already
    for i, (cut, wanted_cut) in enumerate(zip(placed(name, value).cuts, wanted.cuts, strict=True)):
        if cut is None:
            continue
        earlier = wanted.cuts[done[cut.dim] : i]
        if cut != wanted_cut or any(other is not None and other.dim == cut.dim for other in earlier):
            raise ValueError(
                f"{name} with shape {tuple(value.shape)} has placements {_shown(value)}, and {x_name} needs {_described(wanted)}: give "
                f"{name} as a plain tensor, alike in every process, or redistribute it to that or to Replicate()"
            )
        done[cut.dim] = i + 1
    return _taken(local_part(value), wanted, done, tuple(value.shape))


def _taken(local: Tensor, wanted: Placed, done: list[int], shape: tuple[int, ...] | None = None) -> Tensor:
    """The wanted part of a value whose dimension dim the first done[dim] dimensions of the mesh have cut already."""
    if wanted.cuts.count(None) == len(wanted.cuts):
        return local
    for dim in dict.fromkeys(cut.dim for cut in wanted.cuts if cut is not None):
        if any(cut is not None and cut.dim == dim for cut in wanted.cuts[done[dim] :]):
            local = _at(local, dim, _kept([(0, local.shape[dim])], wanted, dim, done[dim]))
    return local


def _at(x: Tensor, dim: int, runs: Runs) -> Tensor:
    """x at those indices along dim; a view where they are one range."""
    parts = [x.narrow(dim, first, past - first) for first, past in runs]
    if not parts:
        return x.narrow(dim, 0, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _kept(runs: Runs, place: Placed, dim: int, after: int) -> Runs:
    """The indices of `runs` that this process holds when the mesh dimensions from `after` on cut them."""
    coordinate = place.mesh.get_coordinate()
    if coordinate is None:  # this process has no part in the mesh
        return []
    for i, cut in enumerate(place.cuts):
        if i < after or cut is None or cut.dim != dim:
            continue
        size, mine = place.mesh.size(i), coordinate[i]
        kept: Runs = []
        for piece in range(cut.factor):
            inside = _chunk(runs, cut.factor, piece)
            kept += _chunk(inside, size, mine)
        runs = kept
    return runs


def _chunk(runs: Runs, chunks: int, which: int) -> Runs:
    """Chunk number `which` of the indices, in torch.chunk's sizes: n / chunks rounded up each, the last ones shorter or empty."""
    if chunks == 1:
        return runs
    n = sum([past - first for first, past in runs])
    size = -(-n // chunks)
    low, high = min(size * which, n), min(size * (which + 1), n)
    chunk: Runs = []
    for first, past in runs:
        a, b = max(low, 0), min(high, past - first)
        if a < b:
            chunk.append((first + a, first + b))
        low, high = low - (past - first), high - (past - first)
    return chunk


def _shown(x: Any) -> str:
    return f"({', '.join([str(p) for p in x.placements])})"


def _described(wanted: Placed) -> str:
    names = [
        "Replicate" if c is None else f"Shard({c.dim})" if c.factor == 1 else f"_StridedShard({c.dim}, {c.factor})"
        for c in wanted.cuts
    ]
    return f"({', '.join(names)})"
