"""Tables that move keys which are rotated already to other positions, or to other frequencies, by a difference of angles.

    key at p under A  ->  key at q under B        multiply by  (b / a) exp(2 pi i (T_B(q) - T_A(p)))

T_A(p) is the angle of a plane at position p under module A in fixed-point turns (turns.py). These are integers modulo one turn, so their
difference is exact, however far p and q are from 0 and from each other. The example of turns.py, 8 bits, 77/256 turn per token, from
position 7 to 3:

    T(7) = 7 * 77 = 539 = 27 mod 256        T(3) = 231        T(3) - T(7) = 204 = -4 * 77 mod 256

Under one module (A = B) the difference depends on the shift q - p alone, and is 0 for a key that does not move: _table_of_shifts.
Otherwise both angles are computed: _table_of_places. a and b are the amplitudes at p and q; only their ratio is formed. If A computed
its angles in float32, T_A are those rounded angles, so that exactly the rotation of A is undone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._torch import has_float64
from .._types import CosSin, Length, Role
from ..positions.counted import count_from
from .cos_sin import Tables
from .eager import in_blocks
from .exact import cos_sin_of_turns
from .turns import in_one_word, turns_along, turns_per_token
from .xpos import XPos, refuse

Turning = Callable[[Tensor], Tensor]
"""Positions (..., 1), or (..., coordinates), int64 -> turns (..., P) int64 in units of 2^-64 turn."""


@dataclass(frozen=True)
class Place:
    """The positions of keys, and the module that rotates them there.

    tables: of that module. positions: an int, the position of the first key, and the others follow one by one; or int64 (rows, 1) or
    (batch, rows, 1), with all coordinates in place of the 1 where planes read several. length: of the context there.
    """

    tables: Tables
    positions: int | Tensor
    length: Length = None

    def column(self, rows: int, device: torch.device) -> Tensor:
        """The positions of so many rows as a tensor."""
        if isinstance(self.positions, Tensor):
            return self.positions
        return count_from(rows, self.positions, device=device)[:, None]


def rerotation(
    old: Place,
    new: Place,
    rows: int,
    dtype: torch.dtype,
    *,
    device: torch.device,
    role: Role,
    input_dtype: torch.dtype,
    traced: bool,
) -> CosSin:
    """Tables (rows, dim/2) or (batch, rows, dim/2) in dtype that take keys from their old place to the new one.

    If all keys move by one shift under one schedule, and the host knows it (from ints, or CPU tensors), the tables are one row of memory,
    expanded. ValueError if a ratio of scales that the host knows does not fit input_dtype; in a group of processes a warning for tensors
    of positions.
    """
    host = not traced and device.type == "cpu"
    # True if both are ints, which are the same in every process.
    alike = not isinstance(old.positions, Tensor) and not isinstance(new.positions, Tensor)
    if _same_schedule(old, new):
        needed = 1 if alike else rows
        shift = new.column(needed, device) - old.column(needed, device)
        if host and shift.numel() and bool((shift == shift[..., :1, :]).all()):
            shift = shift[..., :1, :]
        table, per_row = _table_of_shifts(old, device, dtype, role, traced)
        xpos, tokens, moves, factor = old.tables.xpos, shift[..., 0], shift, 1.0
    else:
        before, after = old.column(rows, device), new.column(rows, device)
        table, per_row, factor = _table_of_places(old, new, before.shape[-1], device, dtype, role, traced)
        xpos = new.tables.xpos or old.tables.xpos
        tokens = _tokens(old.tables.xpos, new.tables.xpos, before[..., 0], after[..., 0])
        shape = torch.broadcast_shapes(before.shape[:-1], after.shape[:-1])
        moves = torch.cat((before.expand(*shape, -1), after.expand(*shape, -1)), -1)
    if host:
        refuse(_overflow(xpos, tokens, factor, input_dtype), alike=alike)
    whole = per_row or traced
    cos, sin = table(moves) if whole else in_blocks(table, moves, old.tables.spectrum.dim // 2, dtype)
    if cos.shape[-2] != rows:
        shape = (*cos.shape[:-2], rows, cos.shape[-1])
        cos, sin = cos.expand(shape), sin.expand(shape)
    return cos, sin


def _same_schedule(old: Place, new: Place) -> bool:
    """True if angles and amplitudes depend on the shift alone: equal tables and lengths, and exact angles."""
    a, b = old.tables, new.tables
    if a.spectrum.angles == "float32" or not (a is b or a == b):
        return False
    before, after = old.length, new.length
    if a.spectrum.window is None or before is after:
        return True
    return not isinstance(before, Tensor) and not isinstance(after, Tensor) and before == after


def _table_of_shifts(
    place: Place, device: torch.device, dtype: torch.dtype, role: Role, traced: bool
) -> tuple[Callable[[Tensor], CosSin], bool]:
    """A function from shifts (..., coordinates) to tables, and whether rows of a batch have frequencies of their own."""
    turns_of, _, per_row = _turning(place, device, traced)
    xpos = place.tables.xpos

    def table(shift: Tensor) -> CosSin:
        return cos_sin_of_turns(turns_of(shift), dtype, 1.0 if xpos is None else xpos.scale(shift[..., 0], role))

    return table, per_row


def _table_of_places(
    old: Place, new: Place, coordinates: int, device: torch.device, dtype: torch.dtype, role: Role, traced: bool
) -> tuple[Callable[[Tensor], CosSin], bool, float | Tensor]:
    """A function from moves (..., 2 x coordinates), old positions before new ones, to tables; whether rows of a batch have frequencies
    of their own; and the ratio of the attention factors."""
    old_turns, old_factor, old_per_row = _turning(old, device, traced)
    new_turns, new_factor, new_per_row = _turning(new, device, traced)
    a, b = old.tables.xpos, new.tables.xpos
    xpos = b or a
    ratio = new_factor / old_factor

    def table(moves: Tensor) -> CosSin:
        before, after = moves[..., :coordinates], moves[..., coordinates:]
        amplitude = ratio
        if xpos is not None:
            amplitude = xpos.scale(_tokens(a, b, before[..., 0], after[..., 0]), role) * ratio
        return cos_sin_of_turns(new_turns(after) - old_turns(before), dtype, amplitude)

    return table, old_per_row or new_per_row, ratio


def _turning(place: Place, device: torch.device, traced: bool) -> tuple[Turning, float | Tensor, bool]:
    """A function from positions to turns, the attention factor, and whether rows of a batch have frequencies of their own."""
    spectrum, length = place.tables.spectrum, place.length
    inv_freq, factor = spectrum.frequencies(device, length, traced=traced)
    if isinstance(factor, Tensor) and factor.ndim:
        factor = factor[:, None, None]

    def along(positions: Tensor) -> Tensor:
        return positions if positions.shape[-1] == 1 else spectrum.along(positions, traced=traced)

    if spectrum.angles == "float32":
        radians = spectrum.divided(inv_freq, length)

        def rounded_turns(positions: Tensor) -> Tensor:  # of the float32 product, which the module rotated by
            return in_one_word(*turns_per_token(along(positions).to(torch.float32) * radians, traced=traced))

        return rounded_turns, factor, inv_freq.ndim == 2
    high, low = spectrum.words(inv_freq, length, traced=traced)
    return lambda positions: turns_along(along(positions), high, low), factor, inv_freq.ndim == 2


def _tokens(a: XPos | None, b: XPos | None, before: Tensor, after: Tensor) -> Tensor:
    """n such that scale(n) = scale_b(after) / scale_a(before), where scale is that of b, or of a without b, and a missing scale is 1.

    A difference of positions: the quotient of two scales could divide two numbers that have both left float64.
    """
    if a is None or b is None:
        return after if a is None else -before
    if a == b:
        return after - before
    work = torch.float64 if has_float64(before.device) else torch.float32
    return after.to(work) - before.to(work) * (b.scale_base / a.scale_base)


def _overflow(xpos: XPos | None, tokens: Tensor, factor: float | Tensor, dtype: torch.dtype) -> str | None:
    """The error message if a ratio of amplitudes, or its inverse, exceeds finfo(dtype).max / 64, which leaves room for a key of 64."""
    if tokens.numel() == 0 or (xpos is None and isinstance(factor, float) and factor == 1.0):
        return None
    factors = torch.as_tensor(factor, dtype=torch.float64, device="cpu")
    steepest = 0.0 if xpos is None else -math.log(xpos.zeta[0]) / xpos.scale_base
    most = float(factors.log().abs().max()) + steepest * float(tokens.abs().max())
    limit = math.log(torch.finfo(dtype).max / 64)
    if most <= limit:
        return None
    return (
        f"this move scales keys by up to e^(+-{most:.4g}), beyond what {dtype} holds (e^(+-{limit:.4g})): move keys less far, "
        f"take a larger scale_base, or cast them to a wider dtype"
    )
