"""cos and sin in one launch: turns.py as one Triton kernel. Imported by gpu.py at its first launch, and by nothing else."""
# The types of Triton's language are its own (a pointer, a tile), and exist only while it traces this function:
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportInvalidTypeForm=false, reportPrivateUsage=false

from __future__ import annotations

import triton
import triton.language as tl

from .turns import RADIANS_PER_UNIT

_RADIANS_PER_UNIT = tl.constexpr(RADIANS_PER_UNIT)


@triton.jit(do_not_specialize=["rows"])
def tables_kernel(
    positions,
    axes,
    turns_per_token,
    amplitude,
    cos,
    sin,
    rows: tl.int32,
    PLANES: tl.constexpr,
    BT: tl.constexpr,
    COORDINATES: tl.constexpr,
):
    """cos and sin (rows, PLANES) float32 of positions (rows,) int64, times the amplitude, one float64.

    With COORDINATES positions are (rows, COORDINATES), and plane j reads number axes[j] of them; with 0 there are none.

    turns_per_token (PLANES,) int64 in units of 2^-64 turn, so that the product, wrapped to 64 bits, is the angle without its whole
    turns. The nearest quarter turn goes away by integers too, and what is left, within pi / 4, is a matter of two polynomials: the
    Taylor series, cut where the next term is below 2^-57.
    """
    row = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    plane = tl.arange(0, triton.next_power_of_2(PLANES))[None, :]
    here = (row < rows) & (plane < PLANES)
    if COORDINATES > 0:
        axis = tl.load(axes + plane, mask=plane < PLANES)
        p = tl.load(positions + row.to(tl.int64) * COORDINATES + axis, mask=here)
    else:
        p = tl.load(positions + row, mask=row < rows)
    turns = p * tl.load(turns_per_token + plane, mask=plane < PLANES)
    quarter = (turns + (1 << 61)) >> 62
    x = (turns - (quarter << 62)).to(tl.float64) * _RADIANS_PER_UNIT
    z = x * x
    s = z * (1 / 355687428096000) - 1 / 1307674368000
    s = z * s + 1 / 6227020800
    s = z * s - 1 / 39916800
    s = z * s + 1 / 362880
    s = z * s - 1 / 5040
    s = z * s + 1 / 120
    s = z * s - 1 / 6
    s = x + x * (z * s)
    c = z * (1 / 20922789888000) - 1 / 87178291200
    c = z * c + 1 / 479001600
    c = z * c - 1 / 3628800
    c = z * c + 1 / 40320
    c = z * c - 1 / 720
    c = z * c + 1 / 24
    c = 1.0 - (z * 0.5 - z * (z * c))
    swapped = (quarter & 1) == 1
    factor = tl.load(amplitude)
    c, s = tl.where(swapped, s, c) * factor, tl.where(swapped, c, s) * factor
    place = row.to(tl.int64) * PLANES + plane
    tl.store(cos + place, tl.where(((quarter + 1) & 2) == 2, -c, c).to(tl.float32), mask=here)
    tl.store(sin + place, tl.where((quarter & 2) == 2, -s, s).to(tl.float32), mask=here)
