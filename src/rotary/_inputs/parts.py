"""The arguments of rotate and cos_sin for distributed tensors: checked for the whole tensor, then cut to this process's part.

Shapes, positions and lengths refer to the whole tensor. Checks read only what is the same in all processes (types, shapes, placements,
values of plain tensors), so that all raise or none. Positions are made for the rows of this process alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from .._angles.integers import as_int64, range_of
from .._subclasses.dtensor import distributed
from .._subclasses.placed import Placed, Runs, part_of, placed
from .._torch import tracing
from .._types import Length, Range, Role, Sizes
from ..positions import packed, sequence
from .shapes import check_batch_of_tables, check_pair, check_width, sequence_axis
from .where import (
    check_coordinates,
    check_one_per_row,
    check_rows_of_length,
    context_length,
    explicit_positions,
    per_row,
    refuse_two,
    role_of,
    start_of,
)


class PartCall(NamedTuple):
    """The checked arguments of a call, for this process.

    seq_dim: counted from the front. positions, length: of this process's rows. shape: of the table of the whole, without its planes.
    position_range: of the whole, if the host knows it from values that are the same in every process. placed: as the table is.
    """

    seq_dim: int
    positions: Tensor
    coordinates: bool
    position_range: Range | None
    length: Length
    role: Role
    traced: bool
    shape: Sizes
    placed: Placed


def for_rotate_parts(
    q: Tensor,
    k: Tensor | None,
    placements: Sequence[Placed],
    *,
    dim: int,
    coordinates: int,
    use_xpos: bool,
    windowed: bool,
    offset: Any,
    positions: Any,
    cu_seqlens: Any,
    length: Any,
    role: Any,
    seq_dim: int,
) -> list[PartCall]:
    """A PartCall for q and one for k, the same object if their tables have the same placements. placements: of q and k.
    windowed: True if a scheme of the module depends on the length."""
    traced = tracing()
    axis = sequence_axis(q, seq_dim, "q")
    keys, keys_name = q, "q"
    if k is not None:
        keys, keys_name = k, "k"
        check_pair(q, k, axis, sequence_axis(k, seq_dim, "k"))
        if role is not None:
            raise TypeError("role belongs to a single tensor: with q and k both given leave it out")
        check_width(dim, k, "k")
        if q.shape[axis] != k.shape[axis] and any(place.cut_at(axis) for place in placements):
            raise ValueError(
                f"q with shape {tuple(q.shape)} is shorter than k {tuple(k.shape)} along dimension {axis}, along which one is cut: "
                f"processes hold different rows of q and k; redistribute both to heads, batch or Replicate(), or rotate each by itself "
                f"with positions="
            )
    check_width(dim, q, "q")
    role = "query" if k is not None else role_of(role, use_xpos)
    length = context_length(length, keys, axis, traced, keys_name)
    source = _source(keys, keys_name, axis, q.shape[axis], offset, positions, cu_seqlens, traced, coordinates)
    rows = source.rows or (length.shape[0] if windowed and per_row(length) else 1)
    check_batch_of_tables(rows, q, "q")
    shape = (keys.shape[axis],) if rows == 1 else (rows, keys.shape[axis])
    dims = {0: axis} if rows == 1 else {0: 0, 1: axis}
    calls: list[PartCall] = []
    for place in placements:
        cut = place.for_value(shape, dims, axis)
        if calls and calls[0].placed == cut:
            calls.append(calls[0])
            continue
        at = source.part(place, axis)
        local_length = _part_of_length(length, place.for_value((rows,), {0: 0}, axis))
        calls.append(
            PartCall(axis, at, source.by_coordinate, source.position_range, local_length, role, traced, shape, cut)
        )
    return calls


class _Source(NamedTuple):
    """Where positions come from: explicit ones, or an offset with or without documents. rows: of the batch, 0 if all share them."""

    n: int
    device: torch.device
    position_range: Range | None
    rows: int
    by_coordinate: bool
    explicit: Any = None
    start: int | Tensor = 0
    cu_seqlens: Any = None

    def part(self, x: Placed, axis: int) -> Tensor:
        """The positions of the rows that this process holds of x."""
        if self.explicit is not None:
            shape = tuple(self.explicit.shape)
            dims = {0: 0, 1: axis} if self.rows else {0: axis}
            return part_of("positions", self.explicit, x.for_value(shape, dims, axis), "x")
        runs = x.runs(self.n, axis)
        start = self.start
        if isinstance(start, Tensor):
            start = part_of("offset", start, x.for_value(tuple(start.shape), {0: 0} if self.rows else {}, axis), "x")
            if self.cu_seqlens is None and start.ndim and not self.rows:
                start = start[0]
        if self.cu_seqlens is not None:
            whole = x.for_value((), {}, axis)
            return packed(
                part_of("cu_seqlens", self.cu_seqlens, whole, "x"),
                self.n,
                tokens=_rows(runs, 0, self.device),
                offset=start,
            )
        return _rows(runs, start, self.device)


def _source(
    keys: Tensor,
    keys_name: str,
    axis: int,
    queries: int,
    offset: Any,
    explicit: Any,
    cu_seqlens: Any,
    traced: bool,
    coordinates: int,
) -> _Source:
    n, device = keys.shape[axis], keys.device
    if explicit is not None:
        refuse_two(offset, cu_seqlens)
        at = explicit_positions(keys, axis, explicit, coordinates, keys_name)
        position_range = None
        if not distributed(at):  # plain, so the same in every process: all raise or none
            at = at if at.is_floating_point() else as_int64(at, traced)
            position_range = range_of(at, traced)
        by_coordinate = bool(coordinates)
        rows = at.shape[0] if at.ndim == 2 + by_coordinate else 0
        return _Source(n, device, position_range, rows, by_coordinate, explicit=at)
    start, _ = start_of(keys, queries, offset, cu_seqlens, n, traced, keys_name)
    if cu_seqlens is not None:
        return _Source(n, device, None, 0, False, start=start, cu_seqlens=cu_seqlens)
    if not isinstance(start, Tensor):
        return _Source(n, device, None if traced or n == 0 else (start, start + n - 1), 0, False, start=start)
    check_one_per_row("offset", start, keys, axis, keys_name)
    return _Source(n, device, None, start.shape[0] if start.ndim and start.shape[0] != 1 else 0, False, start=start)


def _rows(runs: Runs, start: int | Tensor, device: torch.device) -> Tensor:
    parts = [sequence(past - first, start + first, device=device) for first, past in runs]
    if not parts:
        return sequence(0, start, device=device)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _part_of_length(length: Length, wanted: Placed) -> Length:
    if not isinstance(length, Tensor):
        return length
    return part_of("length", length, wanted if length.ndim else wanted.for_value((), {}, 0), "x")


def for_cos_sin_part(positions: Any, *, coordinates: int, use_xpos: bool, length: Any, role: Any) -> PartCall:
    """The arguments of RotaryEmbedding.cos_sin for distributed positions; seq_dim has no meaning there and is -1."""
    traced = tracing()
    _checks.positions(positions)
    if coordinates:
        check_coordinates(positions, coordinates)
    place = placed("positions", positions)
    last = positions.ndim - 1
    if any(p.is_partial() for p in positions.placements) or (coordinates and place.cut_at(last)):
        raise ValueError(
            f"positions {tuple(positions.shape)} have placements {positions.placements}: a process needs all coordinates of its tokens, "
            f"and no summands of a pending reduction; redistribute them to Shard(batch), Shard(sequence) or Replicate()"
        )
    length = context_length(length, None, 0, traced)
    check_rows_of_length(length, positions, coordinates=bool(coordinates))
    shape = tuple(positions.shape[:-1] if coordinates else positions.shape)
    wanted = place.for_value((2,), {0: 0} if len(shape) == 2 else {}, -1)
    local_length = _part_of_length(length, wanted) if not per_row(length) or length.shape[0] != 1 else length
    return PartCall(
        -1,
        positions.to_local(),
        bool(coordinates),
        None,
        local_length,
        role_of(role, use_xpos),
        traced,
        shape,
        place,
    )
