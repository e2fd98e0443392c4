"""The arguments of RotaryEmbedding.rerotate and rerotation, checked and resolved: the old and the new positions of keys.

    rerotate     k ---> rows, device; then positions, lengths and modules (old, new) are checked against them
    rerotation   no k: rows and device come from a tensor of positions, or from rows= where both positions are ints

Every pair (..., ...) below is (old, new).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import _checks
from .._torch import tracing
from .._types import Length, Role
from .shapes import check_batch_of_tables, check_width, sequence_axis
from .where import check_coordinates, not_negative

_FURTHEST = 2**62
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Side(NamedTuple):
    """The properties of a module on which moving its keys depends.

    coordinates: of a position, 0 where a module has no axes. schemes: the names of its schemes that depend on the length of the context.
    """

    dim: int
    interleaved: bool
    coordinates: int
    schemes: str


class Move(NamedTuple):
    """A checked call of rerotate or rerotation.

    seq_dim: counted from the front, -1 in rerotation, which has no keys. rows: the number of keys. positions: ints, or int64
    (rows, 1 or coordinates) or (batch, rows, 1 or coordinates). traced: the answer of tracing().
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
    """The checked arguments of RotaryEmbedding.rerotate."""
    _check_not_quantised(k)
    axis = sequence_axis(k, seq_dim, "k")
    _check_alike(*sides)
    check_width(sides[0].dim, k, "k")
    move = _resolved(positions, lengths, sides, role, k.shape[axis], k.device, f"k with shape {tuple(k.shape)} has")
    for batch in _batches(move):
        if axis == 0:
            raise ValueError(
                f"positions and lengths for each row of a batch need seq_dim other than 0: dimension 0 of k {tuple(k.shape)} is the batch"
            )
        check_batch_of_tables(batch, k, "k")
    return move._replace(seq_dim=axis)


def for_rerotation(
    positions: tuple[Any, Any],
    lengths: tuple[Any, Any],
    sides: tuple[Side, Side],
    role: Any,
    rows: Any,
    device: torch.device,
) -> Move:
    """The checked arguments of RotaryEmbedding.rerotation. device: of the tables where both positions are ints."""
    _check_alike(*sides)
    tensors = [p for p in positions if isinstance(p, Tensor)]
    if tensors:
        if len({p.device for p in tensors}) > 1:
            raise ValueError(
                f"old_positions on {positions[0].device}, new_positions on {positions[1].device}: move one of them first"
            )
        device = tensors[0].device
        n = _sequence_of(tensors[0], sides[0 if tensors[0] is positions[0] else 1].coordinates)
        if rows is not None and _checks.length("rows", rows) != n:
            raise ValueError(f"rows is {rows}, but the positions are {n}: leave rows out where positions are tensors")
        source = "the other positions have"
    elif rows is None:
        raise TypeError(
            "rows= must say how many keys there are, where both positions are ints: old_positions, new_positions, rows=n"
        )
    else:
        n, source = _checks.length("rows", rows), "rows is"
    move = _resolved(positions, lengths, sides, role, n, device, source)
    batches = {batch for batch in _batches(move) if batch != 1}
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
    source: str,
) -> Move:
    """The checked Move of so many rows. source: subject and verb of the sentence that tells where their number is from, for errors."""
    traced = tracing()
    role = cast(Role, _checks.one_of("role", role, ("query", "key")))
    checked_positions, checked_lengths = [], []
    for which, value, length, side in zip(("old", "new"), positions, lengths, sides, strict=True):
        name = f"{which}_positions"
        checked_positions.append(_positions(name, value, side.coordinates, rows, device, source, traced))
        checked_lengths.append(_length(f"{which}_length", length, side.schemes, device, traced))
    old, new = checked_positions
    old_length, new_length = checked_lengths
    return Move(-1, rows, device, (old, new), (old_length, new_length), role, traced)


def _batches(move: Move) -> list[int]:
    """The batch size of each tensor of positions or lengths that has a batch."""
    batches = [p.shape[0] for p in move.positions if isinstance(p, Tensor) and p.ndim == 3]
    return batches + [n.shape[0] for n in move.lengths if isinstance(n, Tensor) and n.ndim]


def _positions(
    name: str, value: Any, coordinates: int, rows: int, device: torch.device, source: str, traced: bool
) -> int | Tensor:
    """value as an int, or as int64 (rows, 1 or coordinates) or (batch, rows, 1 or coordinates)."""
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
            f"{name} must be an int or an integer tensor, got {_checks.describe(value)}: a difference of real positions is not exact; "
            f"rotate the unrotated keys instead"
        )
    _checks.integers(name, value)
    _checks.local(name, value)
    if value.device != device:
        raise ValueError(f"{name} on {value.device}, k on {device}: move {name} first")
    n = _sequence_of(value, coordinates, name)
    if n != rows:
        raise ValueError(f"{name} has {n} entries along the sequence, {source} {rows}")
    positions = value.to(torch.int64)
    positions = positions if coordinates else positions[..., None]
    if not traced and value.device.type == "cpu" and value.numel():
        low, high = (int(edge) for edge in positions.aminmax())
        if not -_FURTHEST <= low <= high <= _FURTHEST or (value.dtype == torch.uint64 and low < 0):
            raise ValueError(f"{name} must stay within +-2^62, got some beyond")
    return positions[0] if positions.ndim == 3 and positions.shape[0] == 1 else positions


def _sequence_of(positions: Tensor, coordinates: int, name: str = "positions") -> int:
    """The number of tokens of positions (seq,) or (batch, seq), which have a last dimension of coordinates where a module has axes."""
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


def _length(name: str, value: Any, schemes: str, device: torch.device, traced: bool) -> Length:
    """The checked length, or None where no scheme depends on it."""
    if value is None:
        if schemes:
            raise ValueError(
                f"{schemes} depends on how long the whole context is: pass {name}=, an int or one for each row of the batch"
            )
        return None
    if not isinstance(value, Tensor):
        checked = _checks.length(name, value)
        return checked if schemes else None
    _checks.integers(name, value)
    _checks.local(name, value)
    if value.ndim > 1:
        raise ValueError(f"{name} must be an int, 0-d or (batch,), got shape {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"{name} on {value.device}, k on {device}: move {name} first")
    value = not_negative(name, value, traced)
    return value if schemes else None


def _check_alike(old: Side, new: Side) -> None:
    """Raise for two modules between which no rotation moves keys: other channels turn, or other channels are paired."""
    if old.dim != new.dim:
        raise ValueError(
            f"these keys are rotated in {old.dim} channels, and new rotates {new.dim}: new must have dim={old.dim}"
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
            f"k is {k.dtype}, and quantised keys cannot be rotated: dequantise, move, quantise; each move adds a rounding to {k.dtype}, so "
            f"move rarely, or keep the keys as they were first quantised and move those"
        )
