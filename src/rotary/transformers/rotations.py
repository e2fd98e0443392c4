"""The rotation of a spec, computed from a model's own tables: by this library's kernels, or by the formula at full width.

    tables              their columns                               function
    half width          one per pair                                by_kernel
    full width, equal   both columns of each pair alike, on a CPU   by_kernel, after one column of each was dropped (halves.py)
    full width          on a device, where they are not compared    by_wide_tables: a kernel that reads both columns
    full width          unlike, or under torch.compile              by_formula

Each function takes spec, xs, tables and the axis at which the model's function inserts the heads into its tables (None for no axis), and
returns the rotated xs, or None where the shapes or dtypes are not its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._rotation.wide import rotate as rotate_wide
from .._types import CosSin
from ..functional import apply_rotary, apply_rotary_qk
from .halves import cos_sin
from .rows import rows_of
from .spec import RotationSpec, formula, join_partial, split_pairs, split_partial


class Split(NamedTuple):
    """An input of a rotation in parts: what rotates; the first tokens and the first channels, which pass through, None where all rotate."""

    rotated: Tensor
    tokens: Tensor | None
    channels: Tensor | None


def split(spec: RotationSpec, x: Tensor, width: int, tokens: int | None) -> Split:
    """The parts of x. width: channels that rotate. tokens: how many rows the tables have, if spec.prefix, else None."""
    first_tokens = first_channels = None
    if tokens is not None and x[..., : x.shape[-2] - tokens, :].shape[-2]:
        first_tokens, x = x[..., : x.shape[-2] - tokens, :], x[..., -tokens:, :]
    if spec.partial == "trailing":
        x, first_channels = split_partial(spec, x, width)
    return Split(x, first_tokens, first_channels)


def join(spec: RotationSpec, y: Tensor, parts: Split) -> Tensor:
    """The inverse of split(), with y in the place of what rotates."""
    if parts.channels is not None:
        y = join_partial(spec, y, parts.channels.to(y.dtype))
    if parts.tokens is not None:
        y = torch.cat((parts.tokens.to(y.dtype), y), -2)
    return y.flatten(-2) if spec.form.folded else y


def by_kernel(spec: RotationSpec, xs: Sequence[Tensor], halves: CosSin, axis: Any) -> list[Tensor] | None:
    """The rotation by apply_rotary. halves: cos and sin of half width."""
    aligned = rows_of_all(xs, halves, axis)
    if aligned is None:
        return None
    seq_dim, rows = aligned
    options: dict[str, Any] = {"seq_dim": seq_dim, "interleaved": spec.interleaved, "conjugate": spec.conjugate}
    xs = [promoted(spec, x, halves[0]) for x in xs]
    try:
        if len(xs) == 2 and xs[0].dtype == xs[1].dtype and xs[0].shape[seq_dim] == xs[1].shape[seq_dim]:
            ys = list(apply_rotary_qk(xs[0], xs[1], *rows[0], **options))
        else:
            ys = [apply_rotary(x, cos, sin, **options) for x, (cos, sin) in zip(xs, rows, strict=True)]
    except (TypeError, ValueError):  # dtypes or shapes that only the model's own function broadcasts
        return None
    return [_half_paired(y, 2 * rows[0][0].shape[-1]) for y in ys] if spec.to_half else ys


def by_wide_tables(
    spec: RotationSpec, xs: Sequence[Tensor], tables: Sequence[Tensor], axis: Any
) -> list[Tensor] | None:
    """The rotation by a kernel that reads both columns of each pair, which saves their comparison: that would wait for the device."""
    wide = cos_sin(tables, spec)
    aligned = rows_of_all(xs, wide, axis)
    if aligned is None:
        return None
    seq_dim, rows = aligned
    xs = [promoted(spec, x, wide[0]) for x in xs]
    together = len(xs) == 2 and xs[0].dtype == xs[1].dtype
    ys: list[Tensor] = []
    for group in [slice(0, 2)] if together else [slice(i, i + 1) for i in range(len(xs))]:
        rotated = rotate_wide(
            tuple(xs[group]),
            tuple(rows[group]),
            seq_dim=seq_dim,
            interleaved=spec.interleaved,
            conjugate=spec.conjugate,
            adjacent=spec.widths == "repeat",
        )
        if rotated is None:
            return None
        ys += rotated
    return [_half_paired(y, wide[0].shape[-1]) for y in ys] if spec.to_half else ys


def by_formula(spec: RotationSpec, xs: Sequence[Tensor], tables: CosSin, axis: Any) -> list[Tensor] | None:
    """The rotation in plain operations at full width, in float32 (float64 for float64), rounded once."""
    cos, sin = tables if axis is None else (tables[0].unsqueeze(axis), tables[1].unsqueeze(axis))
    ys: list[Tensor] = []
    try:
        for x in xs:
            work = torch.float64 if x.dtype == torch.float64 else torch.float32
            y = formula(spec, x.to(work), cos.to(work), sin.to(work))
            ys.append(y.to(promoted(spec, x[:0], cos).dtype))
    except RuntimeError:  # shapes that only the model's own function broadcasts
        return None
    return None if any(y.shape != x.shape for x, y in zip(xs, ys, strict=True)) else ys


def rows_of_all(xs: Sequence[Tensor], tables: CosSin, axis: Any) -> tuple[int, list[CosSin]] | None:
    """(dimension of the sequence, (cos, sin) by rows for each of xs); None for tables whose rows are not those of one dimension."""
    rows: list[CosSin] = []
    seq_dims: set[int] = set()
    for x in xs:
        cos, sin = (rows_of(table, x, axis) for table in tables)
        if cos is None or sin is None:
            return None
        seq_dims |= {cos[0], sin[0]}
        rows.append((cos[1], sin[1]))
    return (seq_dims.pop(), rows) if len(seq_dims) == 1 else None


def promoted(spec: RotationSpec, x: Tensor, cos: Tensor) -> Tensor:
    """x in the dtype that the function returns for it and a table of cos's dtype."""
    return x.to(torch.promote_types(x.dtype, cos.dtype)) if spec.promotes else x


def _half_paired(y: Tensor, width: int) -> Tensor:
    """y with the first `width` channels, interleaved pairs, as half pairs."""
    return torch.cat((*split_pairs(y[..., :width], True), y[..., width:]), -1)
