"""Keys that are rotated already, at other positions or under other frequencies: one table, made of a difference of angles.

    key at p under A  ->  key at q under B        multiply by  (b / a) exp(2 pi i (T_B(q) - T_A(p)))

T are turns of a plane, integers of which whole turns drop out (turns.py): their difference is exact, however far p and q are and lie
apart, and 0 where a key does not move. a and b are amplitudes, of which only the ratio is formed. Where A made its angles in float32,
T_A are those very angles, so that what it did is undone as it was done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._torch import has_float64
from .._types import CosSin, Length, Role
from ..positions import sequence
from .cos_sin import Tables
from .eager import in_blocks
from .exact import cos_sin_of_turns
from .turns import in_one_word, turns_along, turns_per_token
from .xpos import XPos, refuse

Turning = Callable[[Tensor], Tensor]
"""Positions (..., 1), or (..., coordinates), int64 -> turns (..., P) int64 in units of 2^-64 turn."""


@dataclass(frozen=True)
class Place:
    """Where keys stand.

    tables: of the module that rotates them there. positions: of the first key, an int, from which the others count on; or int64
    (rows, 1) or (batch, rows, 1), with all coordinates in place of the 1 where planes read several. length: of the context there.
    """

    tables: Tables
    positions: int | Tensor
    length: Length = None

    def column(self, rows: int, device: torch.device) -> Tensor:
        """The positions of so many rows as a tensor."""
        if isinstance(self.positions, Tensor):
            return self.positions
        return sequence(rows, self.positions, device=device)[:, None]


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

    Where all rows of a sequence move by one shift under one schedule, as is known of ints and of CPU tensors, they are one row of
    memory. ValueError where a ratio of scales that the host knows leaves what input_dtype holds, which is a warning for tensors of
    positions among several processes.
    """
    host = not traced and device.type == "cpu"
    alike = not isinstance(old.positions, Tensor) and not isinstance(new.positions, Tensor)  # counted from ints
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
    """True if angles and amplitudes depend on the shift alone: one module, or two alike, and no rounding of the angles."""
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
    """(shifts (..., coordinates) -> tables), and whether rows of a batch turn differently."""
    turned, _, per_row = _turning(place, device, traced)
    xpos = place.tables.xpos

    def table(shift: Tensor) -> CosSin:
        return cos_sin_of_turns(turned(shift), dtype, 1.0 if xpos is None else xpos.scale(shift[..., 0], role))

    return table, per_row


def _table_of_places(
    old: Place, new: Place, coordinates: int, device: torch.device, dtype: torch.dtype, role: Role, traced: bool
) -> tuple[Callable[[Tensor], CosSin], bool, float | Tensor]:
    """(old positions, then new ones, (..., 2 x coordinates) -> tables), whether rows of a batch differ, the ratio of factors."""
    of_old, old_factor, old_per_row = _turning(old, device, traced)
    of_new, new_factor, new_per_row = _turning(new, device, traced)
    a, b = old.tables.xpos, new.tables.xpos
    xpos = b or a
    ratio = new_factor / old_factor

    def table(moves: Tensor) -> CosSin:
        before, after = moves[..., :coordinates], moves[..., coordinates:]
        amplitude = ratio
        if xpos is not None:
            amplitude = xpos.scale(_tokens(a, b, before[..., 0], after[..., 0]), role) * ratio
        return cos_sin_of_turns(of_new(after) - of_old(before), dtype, amplitude)

    return table, old_per_row or new_per_row, ratio


def _turning(place: Place, device: torch.device, traced: bool) -> tuple[Turning, float | Tensor, bool]:
    """Turns at positions, the attention factor, and whether they differ for the rows of a batch."""
    spectrum, length = place.tables.spectrum, place.length
    inv_freq, factor = spectrum.frequencies(device, length, traced=traced)
    if isinstance(factor, Tensor) and factor.ndim:
        factor = factor[:, None, None]

    def along(positions: Tensor) -> Tensor:
        return positions if positions.shape[-1] == 1 else spectrum.along(positions, traced=traced)

    if spectrum.angles == "float32":
        radians = spectrum.divided(inv_freq, length)

        def as_made(positions: Tensor) -> Tensor:
            return in_one_word(*turns_per_token(along(positions).to(torch.float32) * radians))

        return as_made, factor, inv_freq.ndim == 2
    high, low = spectrum.words(inv_freq, length, traced=traced)
    return lambda positions: turns_along(along(positions), high, low), factor, inv_freq.ndim == 2


def _tokens(a: XPos | None, b: XPos | None, before: Tensor, after: Tensor) -> Tensor:
    """The shift, in tokens of b or else of a, whose scale takes keys from the scale of one xPos, or none, to that of another.

    A difference, where a quotient of scales would divide two numbers that may both have left float64.
    """
    if a is None or b is None:
        return after if a is None else -before
    if a == b:
        return after - before
    work = torch.float64 if has_float64(before.device) else torch.float32
    return after.to(work) - before.to(work) * (b.scale_base / a.scale_base)


def _overflow(xpos: XPos | None, tokens: Tensor, factor: float | Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong where a ratio of amplitudes, or its inverse, is beyond finfo(dtype).max / 64, room for a key of 64; else None."""
    if tokens.numel() == 0 or (xpos is None and isinstance(factor, float) and factor == 1.0):
        return None
    factors = torch.as_tensor(factor, dtype=torch.float64)
    steepest = 0.0 if xpos is None else -math.log(xpos.zeta[0]) / xpos.scale_base
    most = float(factors.log().abs().max()) + steepest * float(tokens.abs().max())
    limit = math.log(torch.finfo(dtype).max / 64)
    if most <= limit:
        return None
    return (
        f"this move scales keys by up to e^(+-{most:.4g}), beyond what {dtype} holds (e^(+-{limit:.4g})): move keys less far, "
        f"take a larger scale_base, or cast them to a wider dtype"
    )
