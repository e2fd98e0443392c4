"""Which part of a distributed tensor (DTensor) this process holds, and that part of what goes with it: positions, lengths, tables.

A DTensor has the shape of the whole; its placements say, for each dimension of a mesh of processes, whether the tensor is cut along one
of its dimensions there (Shard), whole (Replicate), or a summand (Partial). What goes with x is cut as x is:

    value                       its dimensions, and those of x
    positions, tables           (seq, ...) at x's sequence; (batch, seq, ...) at x's batch and sequence
    offset, length (batch,)     at x's batch

A plain value means "alike in every process" and is cut here; nothing is sent. A dimension of size 1 of a batch stands for all rows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dtensor import distributed, local_part, ordered

Runs = list[tuple[int, int]]
"""Ascending indices, as (first, past the last) of stretches."""


class Cut(NamedTuple):
    """How a tensor is placed along one dimension of a mesh: cut at its dimension dim; strided by factor (torch's _StridedShard)."""

    dim: int
    factor: int = 1


class Placed(NamedTuple):
    """Where a tensor lies: for each dimension of the mesh how it is cut, None where it is whole or a summand."""

    mesh: Any
    cuts: tuple[Cut | None, ...]

    def cut_at(self, dim: int) -> bool:
        return any(cut is not None and cut.dim == dim for cut in self.cuts)

    def runs(self, n: int, dim: int) -> Runs:
        """The indices, of n along that dimension, that this process holds."""
        return _kept([(0, n)], self, dim, 0)

    def for_value(self, shape: Sequence[int], dims: Mapping[int, int], seq_dim: int) -> Placed:
        """How a value of that shape is to be placed whose dimensions are those of this tensor, as dims says."""
        mine = {theirs: own for own, theirs in dims.items() if shape[own] != 1 or theirs == seq_dim}
        return Placed(
            self.mesh,
            tuple([None if c is None or c.dim not in mine else Cut(mine[c.dim], c.factor) for c in self.cuts]),
        )


def placed(name: str, x: Any) -> Placed:
    """Where the DTensor x lies. ValueError for placements that are none of torch's public ones."""
    cuts, wrong = _cuts(x.placements, x.ndim)
    if wrong or not (torch.compiler.is_compiling() or ordered(x)):  # the operator asks when it runs
        raise ValueError(
            f"{name} has placements {_shown(x)}, which are not Shard, Replicate or Partial, or cut one dimension along several of the mesh "
            f"in another order than from its first to its last: redistribute it first"
        )
    return Placed(x.device_mesh, cuts)


def rotatable(name: str, x: Any) -> Placed:
    """Where x lies, if a process can rotate its part alone: with both channels of every plane, and linear summands. ValueError if not."""
    where = placed(name, x)
    if where.cut_at(x.ndim - 1):
        raise ValueError(
            f"{name} with shape {tuple(x.shape)} has placements {_shown(x)}, cut along its channels, and a process needs both channels "
            f"of a plane: redistribute it to be cut along heads, batch or sequence, or to Replicate()"
        )
    if None in where.cuts:
        for p in x.placements:
            if p.is_partial() and p.reduce_op not in ("sum", "avg"):
                raise ValueError(
                    f"{name} with shape {tuple(x.shape)} has placements {_shown(x)}: a rotation goes with sums and averages, not with "
                    f"{p.reduce_op!r}: redistribute it to Replicate() or a Shard first"
                )
    return where


def _cuts_of(placements: Sequence[Any], ndim: int) -> tuple[tuple[Cut | None, ...], bool]:
    """How each dimension of the mesh cuts a tensor, and whether one of the placements is unknown."""
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
    """Raise where the DTensor value lies on another mesh."""
    if value.device_mesh != mesh:
        raise ValueError(
            f"{name} lies on {value.device_mesh}, {x_name} on {mesh}: distribute both over one mesh, or give {name} as a plain tensor, "
            f"alike in every process"
        )


def part_of(name: str, value: Any, wanted: Placed, x_name: str) -> Tensor:
    """This process's part of a value that is to be placed so.

    A plain value is cut. A DTensor is to be whole or cut so already, at least along the first dimensions of the mesh: ValueError
    otherwise, since it would have to be sent. Both are known from placements alone, so that all processes agree.
    """
    if type(value) is Tensor or not distributed(value):
        return _taken(value, wanted, [0] * value.ndim)
    same_mesh(name, value, x_name, wanted.mesh)
    if any(p.is_partial() for p in value.placements):
        raise ValueError(f"{name} has placements {_shown(value)}, whose sum is not made yet: redistribute it first")
    given = placed(name, value).cuts
    done = [0] * value.ndim  # for each dimension of the value, along how many dimensions of the mesh it is cut already
    for i, (have, want) in enumerate(zip(given, wanted.cuts, strict=True)):
        if have is None:
            continue
        earlier = wanted.cuts[done[have.dim] : i]
        if have != want or any(cut is not None and cut.dim == have.dim for cut in earlier):
            raise ValueError(
                f"{name} with shape {tuple(value.shape)} has placements {_shown(value)}, and {x_name} needs {_described(wanted)}: give "
                f"{name} as a plain tensor, alike in every process, or redistribute it to that or to Replicate()"
            )
        done[have.dim] = i + 1
    return _taken(local_part(value), wanted, done, tuple(value.shape))


def _taken(local: Tensor, wanted: Placed, done: list[int], shape: tuple[int, ...] | None = None) -> Tensor:
    """The part of a value, cut already along the first done[dim] dimensions of the mesh, that is wanted."""
    if wanted.cuts.count(None) == len(wanted.cuts):
        return local
    for dim in dict.fromkeys(cut.dim for cut in wanted.cuts if cut is not None):
        if any(cut is not None and cut.dim == dim for cut in wanted.cuts[done[dim] :]):
            local = _along(local, dim, _kept([(0, local.shape[dim])], wanted, dim, done[dim]))
    return local


def _along(x: Tensor, dim: int, runs: Runs) -> Tensor:
    parts = [x.narrow(dim, first, past - first) for first, past in runs]
    if not parts:
        return x.narrow(dim, 0, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _kept(runs: Runs, where: Placed, dim: int, after: int) -> Runs:
    """What is left of the runs for this process, cut along the dimensions of the mesh from `after` on."""
    coordinate = where.mesh.get_coordinate()
    if coordinate is None:  # this process has no part in the mesh
        return []
    for i, cut in enumerate(where.cuts):
        if i < after or cut is None or cut.dim != dim:
            continue
        size, mine = where.mesh.size(i), coordinate[i]
        kept: Runs = []
        for piece in range(cut.factor):
            inside = _chunk(runs, cut.factor, piece)
            kept += _chunk(inside, size, mine)
        runs = kept
    return runs


def _chunk(runs: Runs, chunks: int, which: int) -> Runs:
    """Chunk number `which` of the indices, as torch.chunk cuts: equal ones, rounded up, as long as there are any."""
    if chunks == 1:
        return runs
    n = sum([past - first for first, past in runs])
    size = -(-n // chunks)
    low, high = min(size * which, n), min(size * (which + 1), n)
    found: Runs = []
    for first, past in runs:
        a, b = max(low, 0), min(high, past - first)
        if a < b:
            found.append((first + a, first + b))
        low, high = low - (past - first), high - (past - first)
    return found


def _shown(x: Any) -> str:
    return f"({', '.join([str(p) for p in x.placements])})"


def _described(wanted: Placed) -> str:
    names = [
        "Replicate" if c is None else f"Shard({c.dim})" if c.factor == 1 else f"_StridedShard({c.dim}, {c.factor})"
        for c in wanted.cuts
    ]
    return f"({', '.join(names)})"
