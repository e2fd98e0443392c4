"""Positions, length of the context, and role of a call, from whichever of its arguments states them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from .. import _checks
from .._angles.integers import as_int64, range_of
from .._subclasses.dtensor import distributed
from .._types import Length, Range, Role
from ..positions import packed
from ..positions.counted import count_from

if TYPE_CHECKING:
    from typing import TypeGuard


_LONGEST = 2**63


def positions_of(
    keys: Tensor,
    axis: int,
    queries: int,
    offset: Any,
    explicit: Any,
    cu_seqlens: Any,
    traced: bool,
    coordinates: int = 0,
    x_name: str = "x",
) -> tuple[Tensor, Range | None]:
    """Positions of keys, (seq,) or (batch, seq), and their range where they are counted from an offset whose value is known.

    explicit: the positions= argument, checked against keys; if coordinates is not 0 it has a last dimension of so many. Without it,
        positions are counted from offset and cu_seqlens, without coordinates.
    x_name: what the caller's argument is called, for errors.
    """
    n = keys.shape[axis]
    if explicit is not None:
        refuse_two(offset, cu_seqlens)
        return explicit_positions(keys, axis, explicit, coordinates, x_name), None
    start, starts = start_of(keys, queries, offset, cu_seqlens, n, traced, x_name)
    if cu_seqlens is not None:
        return packed(cu_seqlens, n, offset=start), None
    position_range = None if starts is None or n == 0 else (starts[0], starts[1] + n - 1)
    if not isinstance(start, Tensor):
        return count_from(n, start, device=keys.device), position_range
    check_one_per_row("offset", start, keys, axis, x_name)
    return count_from(n, start[0] if start.ndim and start.shape[0] == 1 else start), position_range


def refuse_two(offset: Any, cu_seqlens: Any) -> None:
    """Raise where offset or cu_seqlens is given together with positions."""
    if isinstance(offset, Tensor) or _checks.index("offset", offset) != 0:
        raise TypeError("give positions or offset, not both")
    if cu_seqlens is not None:
        raise TypeError("give positions or cu_seqlens, not both")


def start_of(
    keys: Tensor, queries: int, offset: Any, cu_seqlens: Any, n: int, traced: bool, x_name: str = "x"
) -> tuple[int | Tensor, Range | None]:
    """The offset of n keys, as an int or an int64 tensor, and the smallest and the largest offset, where they are known; cu_seqlens is
    checked too."""
    start: int | Tensor = (
        offset if type(offset) is int or isinstance(offset, Tensor) else _checks.index("offset", offset)
    )
    if isinstance(start, Tensor):
        _checks.integers("offset", start)
        _check_device("offset", start, keys, x_name)
        start, starts = whole_numbers("offset", start, traced)
    else:
        starts = None if traced else (start, start)
    if starts is not None and not -_LONGEST <= starts[0] <= starts[1] <= _LONGEST - max(n, 1):
        value = f"of {_checks.describe(start)} beyond 2^63 - {n}" if isinstance(start, Tensor) else start
        raise ValueError(f"positions must fit into int64, got offset {value} for {n} tokens")
    if cu_seqlens is not None:
        if not isinstance(cu_seqlens, Tensor):
            raise TypeError(f"cu_seqlens must be an integer tensor, got {type(cu_seqlens).__name__}")
        _check_device("cu_seqlens", cu_seqlens, keys, x_name)
        if queries != n:
            raise ValueError(f"with cu_seqlens q and k must be equally long, got {queries} and {n}")
    return start, starts


def whole_numbers(name: str, value: Tensor, traced: bool) -> tuple[Tensor, Range | None]:
    """A tensor of integers as int64, and the smallest and the largest of them, None where they are not read: traced, on a device, in a
    DTensor. ValueError for uint64 numbers of 2^63 or more that are read."""
    if type(value) is not Tensor and distributed(value):
        return value, None
    value = as_int64(value, traced, name)
    if traced or type(value) is not Tensor or value.device.type != "cpu" or value.numel() == 0:
        return value, None
    if value.ndim == 0:  # of decoding: 0.3 us, where aminmax takes 3
        number = int(value)
        return value, (number, number)
    return value, range_of(value, traced)


def explicit_positions(keys: Tensor, axis: int, explicit: Any, coordinates: int, x_name: str = "x") -> Tensor:
    """The positions= argument, checked against keys; a batch of one row is returned as that row."""
    if not isinstance(explicit, Tensor):
        raise TypeError(f"positions must be a tensor of numbers, got {type(explicit).__name__}")
    _checks.positions(explicit)
    _check_device("positions", explicit, keys, x_name)
    n = keys.shape[axis]
    if coordinates:
        check_coordinates(explicit, coordinates)
    rows = tuple(explicit.shape[:-1]) if coordinates else tuple(explicit.shape)
    last = ", coordinates" if coordinates else ""
    if len(rows) not in (1, 2):
        raise ValueError(
            f"positions must have shape (seq{last or ','}) or (batch, seq{last}), got {tuple(explicit.shape)}"
            + ("" if coordinates or explicit.ndim != 3 else "; a module of several coordinates is made with axes=")
        )
    if rows[-1] != n:
        raise ValueError(
            f"positions has {rows[-1]} entries along the sequence, {x_name} with shape {tuple(keys.shape)} has {n} along dimension {axis}"
        )
    if len(rows) == 2 and rows[0] == 1:
        return explicit[0]
    if len(rows) == 2:
        _check_batch("positions", rows[0], keys, axis, x_name)
    return explicit


def check_coordinates(positions: Tensor, coordinates: int) -> None:
    """Raise where the last dimension of positions does not hold one number for each coordinate that the planes read."""
    shape = tuple(positions.shape)
    if positions.ndim < 2:
        raise ValueError(
            f"positions must have a last dimension of {coordinates} coordinates, got shape {shape}; for text give the same number on each: "
            f"positions[:, None].expand(-1, {coordinates}), or offset="
        )
    if shape[-1] != coordinates:
        hint = "; transformers puts coordinates first: movedim(0, -1)" if shape[0] == coordinates else ""
        raise ValueError(
            f"positions have {shape[-1]} coordinates in their last dimension {shape}, the planes read {coordinates}{hint}"
        )


def context_length(value: Any, x: Tensor | None, axis: int, traced: bool, x_name: str = "x") -> Length:
    """The length= argument, checked against the batch of x, if there is an x."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        return _checks.length("length", value)
    _checks.integers("length", value)
    check_one_per_row("length", value, x, axis, x_name)
    return not_negative("length", value, traced)


def not_negative(name: str, value: Tensor, traced: bool) -> Tensor:
    """A length in a tensor of integers, as int64. ValueError for a negative number that is read."""
    value, known = whole_numbers(name, value, traced)
    if known is not None and known[0] < 0:
        raise ValueError(f"{name} must be >= 0, got {_checks.describe(value)} with negative numbers")
    return value


def check_rows_of_length(length: Length, positions: Tensor, *, coordinates: bool = False) -> None:
    """Raise where a (batch,) length does not fit the rows of positions, whose last dimension may be coordinates."""
    dims = positions.ndim - coordinates
    if not per_row(length) or dims < 2:
        return
    if dims > 2 or positions.shape[0] not in (1, length.shape[0]):
        raise ValueError(
            f"length has shape {tuple(length.shape)}, positions {tuple(positions.shape)}: (seq,) or (batch, seq) is needed"
        )


def per_row(length: Length) -> TypeGuard[Tensor]:
    """True if the length is a tensor (batch,)."""
    return isinstance(length, Tensor) and length.ndim > 0


def check_one_per_row(name: str, value: Tensor, x: Tensor | None, axis: int, x_name: str = "x") -> None:
    """Raise unless value is 0-d or has one entry for each row of the batch of x."""
    if value.ndim > 1:
        raise ValueError(f"{name} must be an int, 0-d or (batch,), got shape {tuple(value.shape)}")
    if x is not None:
        _check_device(name, value, x, x_name)
        if value.ndim and value.shape[0] != 1:
            _check_batch(name, value.shape[0], x, axis, x_name)
        elif value.ndim and axis != 0 and x.ndim > 2 and x.shape[0] != 1:
            raise ValueError(
                f"{name} has 1 row, {x_name} with shape {tuple(x.shape)} has a batch of {x.shape[0]}; give an int or 0-d for all rows"
            )


def _check_batch(name: str, rows: int, x: Tensor, axis: int, x_name: str) -> None:
    if axis == 0:
        raise ValueError(
            f"{name} with {rows} rows needs seq_dim other than 0: the batch is dimension 0 of {x_name} with shape {tuple(x.shape)}"
        )
    if rows != x.shape[0]:
        raise ValueError(
            f"{name} batch {rows} does not match {x_name} batch {x.shape[0]} ({x_name} has shape {tuple(x.shape)})"
        )


def _check_device(name: str, value: Tensor, x: Tensor, x_name: str) -> None:
    if type(value) is not Tensor and distributed(value) and not distributed(x):
        raise TypeError(
            f"{name} is distributed over {value.device_mesh}, {x_name} is a plain tensor {_checks.describe(x)}: give {name}.to_local() "  # pyright: ignore[reportAttributeAccessIssue]
            f"for the rows of {x_name} in this process"
        )
    if value.device != x.device:
        raise ValueError(f"{name} on {value.device}, {x_name} on {x.device}: move {name} first")


def role_of(role: Any, use_xpos: bool) -> Role:
    """The role= argument of a call with one tensor; "query" where it does not matter."""
    if role is not None:
        return cast(Role, _checks.one_of("role", role, ("query", "key")))
    if use_xpos:
        raise TypeError("xPos scales queries and keys differently; pass role='query' or role='key'")
    return "query"
