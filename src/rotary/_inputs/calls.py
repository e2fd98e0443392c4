"""The arguments of a call, checked and resolved before anything is computed: shapes, dtypes, devices, positions, lengths, roles.

    for_rotate      RotaryEmbedding.rotate      for_cos_sin     RotaryEmbedding.cos_sin
    for_table       apply_rotary                for_pair        apply_rotary_qk             for_freqs   apply_rotary_pos_emb
    for_operator    torch.ops.rotary.rotate and rotate_

Errors are TypeError or ValueError and name the argument, its shape or dtype, and the fix. Values of tensors are read on the CPU only,
and never under tracing, so no check waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from .._subclasses.dtensor import distributed
from .._torch import jit_tracing, tracing
from .._types import CosSin, Length, Range, Role
from ..positions.counted import count_from
from .shapes import check_batch_of_tables, check_pair, check_width, sequence_axis, table_of
from .where import check_coordinates, check_rows_of_length, context_length, per_row, positions_of, role_of


class Call(NamedTuple):
    """A checked call of RotaryEmbedding.

    seq_dim: counted from the front. positions: of the keys, (seq,) or (batch, seq), with a last dimension of coordinates if
    `coordinates`; otherwise each coordinate is the position. position_range: if the offset tells it. counted: True if
    positions were counted from ints alone. traced: the answer of tracing(), asked once for the whole call.
    """

    seq_dim: int
    positions: Tensor
    coordinates: bool
    position_range: Range | None
    length: Length
    role: Role
    traced: bool
    counted: bool


def for_rotate(
    q: Tensor,
    k: Tensor | None,
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
) -> Call:
    """The checked arguments of RotaryEmbedding.rotate. coordinates: of a position, 0 where a module has no axes. windowed: True if a
    scheme of the module depends on the length."""
    traced = tracing()
    axis = sequence_axis(q, seq_dim, "q")
    keys, keys_name = q, "q"
    if k is not None:
        keys, keys_name = k, "k"
        check_pair(q, k, axis, sequence_axis(k, seq_dim, "k"))
        if role is not None:
            raise TypeError("role= is for one tensor alone: q is the query and k the key; leave it out")
        check_width(dim, k, "k")
    check_width(dim, q, "q")
    role = "query" if k is not None else role_of(role, use_xpos)
    key_positions, position_range = positions_of(
        keys, axis, q.shape[axis], offset, positions, cu_seqlens, traced, coordinates, keys_name
    )
    by_coordinate = bool(coordinates) and positions is not None
    length = context_length(length, keys, axis, traced, keys_name)
    if key_positions.ndim == 2 + by_coordinate:
        batch = key_positions.shape[0]
    else:
        batch = length.shape[0] if windowed and per_row(length) else 1
    check_batch_of_tables(batch, q, "q")
    counted = positions is None and cu_seqlens is None and not isinstance(offset, Tensor)
    return Call(axis, key_positions, by_coordinate, position_range, length, role, traced, counted)


def for_cos_sin(
    positions: Any, *, coordinates: int, use_xpos: bool, length: Any, role: Any, device: torch.device
) -> Call:
    """The checked arguments of RotaryEmbedding.cos_sin, which has no seq_dim: it is -1."""
    traced = tracing()
    position_range, counted = None, not isinstance(positions, Tensor)
    by_coordinate = bool(coordinates) and not counted
    if not counted:
        _checks.positions(positions)
        if coordinates:
            check_coordinates(positions, coordinates)
        if not positions.ndim and jit_tracing():  # jit.trace turns lengths such as x.shape[-2] into 0-d tensors
            raise ValueError(
                "under jit.trace a length is a 0-d tensor, which means one position here: pass positions=torch.arange(n)"
            )
    else:
        n = _checks.length("positions", positions)
        position_range = (0, n - 1) if n and not traced else None
        positions = count_from(n, device=device)
    length = context_length(length, None, 0, traced)
    if isinstance(length, Tensor):
        _checks.local("length", length)
    check_rows_of_length(length, positions, coordinates=by_coordinate)
    return Call(-1, positions, by_coordinate, position_range, length, role_of(role, use_xpos), traced, counted)


def for_table(x: Tensor, cos: Tensor, sin: Tensor, seq_dim: int) -> tuple[int, CosSin]:
    """The checked arguments of apply_rotary: seq_dim from the front, and the tables in the dtype of the arithmetic."""
    axis = sequence_axis(x, seq_dim, "x")
    return axis, table_of(x, cos, sin, axis, x.shape[axis], "x")


def for_pair(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_cos: Tensor | None,
    key_sin: Tensor | None,
    seq_dim: int,
    q_name: str = "q",
) -> tuple[int, tuple[CosSin, CosSin]]:
    """The checked arguments of apply_rotary_qk: seq_dim from the front, a table for q, cut to its length, and one for k. q_name: "k" where
    there are keys alone, which are then q too."""
    axis = sequence_axis(q, seq_dim, q_name)
    check_pair(q, k, axis, sequence_axis(k, seq_dim, "k"))
    if (key_cos is None) != (key_sin is None):
        raise TypeError("key_cos and key_sin belong together: give both or neither")
    length = k.shape[axis]
    q_table = k_table = table_of(k, cos, sin, axis, length, "k")
    if key_cos is not None and key_sin is not None:
        k_table = table_of(k, key_cos, key_sin, axis, length, "k")
    if q_table[0].ndim == 3:
        check_batch_of_tables(q_table[0].shape[0], q, q_name)
    if q_table[0].shape[-1] * 2 > q.shape[-1]:
        table_of(q, cos, sin, axis, length, q_name)
    return axis, (last_rows(q_table, q.shape[axis], length), k_table)


def for_operator(xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int) -> None:
    """Raise for arguments of torch.ops.rotary.rotate with which a kernel would read or write outside a tensor.

    The operators take one or two tensors, a cos and a sin for each in the dtype of the arithmetic, and seq_dim from the front, as the
    public functions pass them. Exported programs call the operators by name, without the checks of those functions.
    """
    if len(xs) not in (1, 2) or len(tables) != 2 * len(xs):
        raise ValueError(
            f"rotary.rotate takes one or two tensors, and cos and sin for each, got {len(xs)} tensors and {len(tables)} tables"
        )
    names = _checks.names_of(xs)
    for x, name in zip(xs, names, strict=True):
        if seq_dim < 0 or sequence_axis(x, seq_dim, name) != seq_dim:
            raise ValueError(f"seq_dim must be counted from the front, got {seq_dim}")
        if x.dtype != xs[0].dtype:
            raise TypeError(f"q is {xs[0].dtype}, k is {x.dtype}: rotate them one by one, or cast one")
        if x.device != xs[0].device:
            raise ValueError(f"q on {xs[0].device}, k on {x.device}")
    for i, (x, name) in enumerate(zip(xs, names, strict=True)):
        cos, sin = tables[2 * i], tables[2 * i + 1]
        work_cos, work_sin = table_of(x, cos, sin, seq_dim, x.shape[seq_dim], name)
        if work_cos is not cos or work_sin is not sin:
            raise TypeError(
                f"the tables of {name} must be {work_cos.dtype}, as the arithmetic is, got {cos.dtype} and {sin.dtype}"
            )


def for_freqs(t: Tensor, freqs: Tensor, scale: Tensor | float) -> None:
    """Raise where the arguments of apply_rotary_pos_emb do not fit."""
    sequence_axis(t, -2, "t")
    _checks.tensor("freqs", freqs)
    if not isinstance(scale, Tensor):
        _checks.number_of_any_sign("scale", scale)
    for name, value in (("freqs", freqs), ("scale", scale)):
        if isinstance(value, Tensor):
            _checks.dense(name, value)
            if value.device != t.device and (value.ndim or value.device.type != "cpu"):
                raise ValueError(f"{name} on {value.device}, t on {t.device}")
            if not distributed(t):
                _checks.local(name, value)
    if freqs.ndim != 2 or freqs.shape[-1] % 2 or not freqs.is_floating_point():
        raise ValueError(
            f"freqs must be floating with shape (rows, dim), dim even, got {freqs.dtype} {tuple(freqs.shape)}; if that is k, or cos of a "
            f"batch, call apply_rotary_qk(q, k, *rotary.tables.from_full_width(cos, sin))"
        )
    check_width(freqs.shape[-1], t, "t")
    if freqs.shape[0] < t.shape[-2]:
        raise ValueError(f"freqs has {freqs.shape[0]} rows, t with shape {tuple(t.shape)} needs {t.shape[-2]}")
    if isinstance(scale, Tensor) and scale.ndim and scale.shape != freqs.shape:
        raise ValueError(
            f"scale must be a number or have the shape of freqs {tuple(freqs.shape)}, got {tuple(scale.shape)}"
        )
    if isinstance(scale, Tensor) and (scale.is_complex() or scale.dtype == torch.bool):
        raise TypeError(f"scale must be real numbers, got {scale.dtype}")
    if isinstance(scale, Tensor) and scale.ndim and freqs.numel() and freqs.device.type == "cpu" and not tracing():
        _check_no_cosines(freqs, scale)
    if freqs.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"freqs must be float32 or float64, got {freqs.dtype}, in which an angle of 300 is off by up to 1: make them in float32"
        )


def _check_no_cosines(freqs: Tensor, scale: Tensor) -> None:
    """Raise where freqs and scale are cos and sin, which functions of this name in other libraries take as these arguments.

    They are if the squares of each element sum to 1. The first row is judged first, since it nearly always settles the matter. Small
    angles with a scale of 1 pass that test too; but then no element of freqs reaches 0.5, and some cosine always does.
    """
    tolerance = 0.02  # more than the rounding of bfloat16 changes the sum of two squares
    for rows in (slice(0, 1), slice(None)):
        squares = freqs[rows].float().square() + scale[rows].float().square()
        if (
            not torch.allclose(squares, torch.ones_like(squares), rtol=0, atol=tolerance)
            or freqs[rows].float().abs().max() < 0.5
        ):
            return
    raise ValueError(
        f"freqs and scale {tuple(freqs.shape)} are cosines and sines, and apply_rotary_pos_emb(t, freqs, scale) takes angles [rad], as "
        f"RotaryEmbedding.forward() gives them: for ready tables call apply_rotary(t, *rotary.tables.from_full_width(cos, sin))"
    )


def for_directions(positions: Tensor, directions: Tensor) -> None:
    """Raise where the arguments of cos_sin_of do not fit."""
    _checks.positions(positions)
    if not directions.is_floating_point() or directions.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"directions must be float32 or float64, got {directions.dtype}")
    if directions.ndim not in (2, 3):
        raise ValueError(
            f"directions must have shape (planes, coordinates) or (heads, planes, coordinates), got {tuple(directions.shape)}"
        )
    check_coordinates(positions, directions.shape[-1])
    if positions.ndim > 5 - directions.ndim:
        shapes = "(seq, coordinates)" if directions.ndim == 3 else "(seq, coordinates) or (batch, seq, coordinates)"
        raise ValueError(f"positions must have shape {shapes}, got {tuple(positions.shape)}")
    if positions.device != directions.device:
        raise ValueError(f"positions on {positions.device}, directions on {directions.device}: move one")


def last_rows(table: CosSin, rows: int, length: int) -> CosSin:
    """The last `rows` rows of a table of `length` rows, for queries that follow cached keys."""
    if rows == length:
        return table
    cos, sin = table
    if type(cos) is not Tensor and distributed(cos):
        from .._subclasses.placed import placed  # imported only in processes with DTensors

        if placed("cos", cos).cut_at(cos.ndim - 2):
            raise ValueError(
                f"tables {tuple(cos.shape)} are cut along their rows, and q takes the last {rows} of {length}: a process has other rows of "
                f"q than of k; give tables that are plain or Replicate()"
            )
    return cos[..., length - rows :, :], sin[..., length - rows :, :]
