"""The arguments of RotaryEmbedding.rerotate and rerotation: two places of keys, checked and resolved before anything is computed."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import _checks
from .._torch import tracing
from .._types import Length, Role
from .shapes import check_batch_of_tables, check_width, sequence_axis
from .where import check_coordinates

_FURTHEST = 2**62
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Side(NamedTuple):
    """What a module says of the keys that it rotates.

    coordinates: of a position, 0 where a module has no axes. schemes: the names of those that depend on the length of the context.
    """

    dim: int
    interleaved: bool
    coordinates: int
    schemes: str


class Move(NamedTuple):
    """What a call asks for.

    seq_dim: counted from the front, -1 where there are no keys. positions: ints, or int64 (rows, 1 or coordinates) or (batch, rows,
    1 or coordinates). traced: what tracing() says here.
    """

    seq_dim: int
    rows: int
    device: torch.device
    positions: tuple[int | Tensor, int | Tensor]
    lengths: tuple[Length, Length]
    role: Role
    traced: bool


def for_rerotate(
    k: Any,
    positions: tuple[Any, Any],
    lengths: tuple[Any, Any],
    sides: tuple[Side, Side],
    role: Any,
    seq_dim: int,
) -> Move:
    """The arguments of RotaryEmbedding.rerotate; each pair is (old, new)."""
    _check_not_quantised(k)
    axis = sequence_axis(k, seq_dim, "k")
    _check_alike(*sides)
    check_width(sides[0].dim, k, "k")
    move = _resolved(positions, lengths, sides, role, k.shape[axis], k.device, f"k with shape {tuple(k.shape)} has")
    for rows in _rows_of_batch(move):
        if axis == 0:
            raise ValueError(
                f"positions and lengths for each row of a batch need seq_dim other than 0: dimension 0 of k {tuple(k.shape)} is the batch"
            )
        check_batch_of_tables(rows, k, "k")
    return move._replace(seq_dim=axis)


def for_rerotation(
    positions: tuple[Any, Any],
    lengths: tuple[Any, Any],
    sides: tuple[Side, Side],
    role: Any,
    rows: Any,
    device: torch.device,
) -> Move:
    """The arguments of RotaryEmbedding.rerotation, which has no keys: tensors say how many rows there are and where they lie."""
    _check_alike(*sides)
    tensors = [p for p in positions if isinstance(p, Tensor)]
    if tensors:
        if len({p.device for p in tensors}) > 1:
            raise ValueError(
                f"old_positions on {positions[0].device}, new_positions on {positions[1].device}: move one of them first"
            )
        device = tensors[0].device
        found = _sequence_of(tensors[0], sides[0 if tensors[0] is positions[0] else 1].coordinates)
        if rows is not None and _checks.length("rows", rows) != found:
            raise ValueError(
                f"rows is {rows}, but the positions are {found}: leave rows out where positions are tensors"
            )
        n, whose = found, "the other positions have"
    elif rows is None:
        raise TypeError(
            "rows= must say how many keys there are, where both positions are ints: old_positions, new_positions, rows=n"
        )
    else:
        n, whose = _checks.length("rows", rows), "rows says"
    move = _resolved(positions, lengths, sides, role, n, device, whose)
    batches = {rows for rows in _rows_of_batch(move) if rows != 1}
    if len(batches) > 1:
        raise ValueError(
            f"positions and lengths are for batches of {' and '.join(map(str, sorted(batches)))} rows: give one"
        )
    return move


def _resolved(
    positions: tuple[Any, Any],
    lengths: tuple[Any, Any],
    sides: tuple[Side, Side],
    role: Any,
    rows: int,
    device: torch.device,
    whose: str,
) -> Move:
    traced = tracing()
    role = cast(Role, _checks.one_of("role", role, ("query", "key")))
    at, tokens = [], []
    for which, given, length, side in zip(("old", "new"), positions, lengths, sides, strict=True):
        at.append(_positions(f"{which}_positions", given, side.coordinates, rows, device, whose, traced))
        tokens.append(_length(f"{which}_length", length, side.schemes, device))
    return Move(-1, rows, device, (at[0], at[1]), (tokens[0], tokens[1]), role, traced)


def _rows_of_batch(move: Move) -> list[int]:
    """How many rows of a batch the positions and lengths are for, each that says so."""
    found = [p.shape[0] for p in move.positions if isinstance(p, Tensor) and p.ndim == 3]
    return found + [n.shape[0] for n in move.lengths if isinstance(n, Tensor) and n.ndim]


def _positions(
    name: str, value: Any, coordinates: int, rows: int, device: torch.device, whose: str, traced: bool
) -> int | Tensor:
    if not isinstance(value, Tensor):
        try:
            start = _checks.index(name, value)
        except TypeError:
            raise TypeError(
                f"{name} must be an int, the position of the first key, or an integer tensor, got {_checks.describe(value)}"
            ) from None
        if not traced and not -_FURTHEST <= start <= _FURTHEST - rows:
            raise ValueError(f"{name} must stay within +-2^62, got {start} for {rows} keys")
        return start
    if value.is_floating_point():
        raise TypeError(
            f"{name} must be an int or an integer tensor, got {_checks.describe(value)}: the difference of real positions is not exact; "
            f"rotate keys afresh"
        )
    _checks.integers(name, value)
    if value.device != device:
        raise ValueError(f"{name} on {value.device}, k on {device}: move {name} first")
    n = _sequence_of(value, coordinates, name)
    if n != rows:
        raise ValueError(f"{name} has {n} entries along the sequence, {whose} {rows}")
    wide = value.to(torch.int64)
    wide = wide if coordinates else wide[..., None]
    if not traced and value.device.type == "cpu" and value.numel():
        low, high = (int(edge) for edge in wide.aminmax())
        if not -_FURTHEST <= low <= high <= _FURTHEST or (value.dtype == torch.uint64 and low < 0):
            raise ValueError(f"{name} must stay within +-2^62, got some beyond")
    return wide[0] if wide.ndim == 3 and wide.shape[0] == 1 else wide


def _sequence_of(positions: Tensor, coordinates: int, name: str = "positions") -> int:
    """How many tokens positions (seq,) or (batch, seq) are for, with a last dimension of coordinates where a module has them."""
    if coordinates:
        check_coordinates(positions, coordinates)
    last = ", coordinates" if coordinates else ""
    rows = positions.shape[:-1] if coordinates else positions.shape
    if len(rows) not in (1, 2):
        raise ValueError(
            f"{name} must be an int, the position of the first key, or have shape (seq{last or ','}) or (batch, seq{last}), "
            f"got shape {tuple(positions.shape)}"
        )
    return rows[-1]


def _length(name: str, value: Any, schemes: str, device: torch.device) -> Length:
    if value is None:
        if schemes:
            raise ValueError(
                f"{schemes} depends on how long the whole context is: pass {name}=, an int or one for each row of the batch"
            )
        return None
    if not isinstance(value, Tensor):
        return _checks.length(name, value) if schemes else None
    _checks.integers(name, value)
    if value.ndim > 1:
        raise ValueError(f"{name} must be an int, 0-d or (batch,), got shape {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"{name} on {value.device}, k on {device}: move {name} first")
    return value if schemes else None


def _check_alike(old: Side, new: Side) -> None:
    """Raise for modules between which no rotation moves keys."""
    if old.dim != new.dim:
        raise ValueError(
            f"keys that turn in {old.dim} channels cannot stand under a module that turns {new.dim}: new must have dim={old.dim}"
        )
    if old.interleaved != new.interleaved:
        names = {True: "interleaved", False: "half"}
        raise ValueError(
            f"the keys are {names[old.interleaved]}-paired and new pairs channels {names[new.interleaved]}: `rotary convert` "
            f"(rotary.checkpoints.convert) rewrites a checkpoint, rotary.pairing permutes the channels of keys"
        )


def _check_not_quantised(k: Any) -> None:
    if (
        isinstance(k, Tensor)
        and k.dtype not in _FLOATING
        and k.dtype not in (torch.bool, torch.complex64, torch.complex128)
    ):
        raise TypeError(
            f"k is {k.dtype}, and quantised keys cannot be turned as they are: dequantise, move, quantise; each time adds a rounding of "
            f"{k.dtype}, so move rarely, or from the keys as they were first quantised"
        )
