"""cos and sin in one launch: turns.py and polynomials.py as a Triton kernel. Only gpu.py imports it, at its first launch."""
# The types of Triton's language are its own (a pointer, a tile), and exist only while it traces this function:
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportInvalidTypeForm=false, reportPrivateUsage=false

from __future__ import annotations

import triton
import triton.language as tl

from . import polynomials
from .turns import FAR
from .work import BOTH_WHERE_FAR, ONE

_RADIANS_PER_UNIT = tl.constexpr(polynomials.RADIANS_PER_UNIT)
_S17, _S15, _S13, _S11, _S9, _S7, _S5, _S3 = (tl.constexpr(c) for c in polynomials.SIN)
_C16, _C14, _C12, _C10, _C8, _C6, _C4 = (tl.constexpr(c) for c in polynomials.COS)
_E13, _E12, _E11, _E10, _E9, _E8, _E7, _E6, _E5, _E4, _E3, _E2, _E1, _E0 = (tl.constexpr(c) for c in polynomials.EXP)
_LOG2_E = tl.constexpr(polynomials.LOG2_E)
_LN2_HIGH = tl.constexpr(polynomials.LN2_HIGH)
_LN2_LOW = tl.constexpr(polynomials.LN2_LOW)
_EXP_LIMIT = tl.constexpr(polynomials.EXP_LIMIT)
_FAR = tl.constexpr(FAR)
_ONE = tl.constexpr(ONE)
_BOTH_WHERE_FAR = tl.constexpr(BOTH_WHERE_FAR)


@triton.jit(do_not_specialize=["rows", "per_batch", "step"])
def tables_kernel(
    positions,
    axes,
    high,
    low,
    amplitude,
    decay,
    cos,
    sin,
    rows: tl.int32,
    per_batch: tl.int32,
    step: tl.int32,
    PLANES: tl.constexpr,
    BT: tl.constexpr,
    COORDINATES: tl.constexpr,
    WORDS: tl.constexpr,
    BATCHED: tl.constexpr,
    AMPLITUDES: tl.constexpr,
    DECAY: tl.constexpr,
):
    """Write cos and sin (rows, PLANES) of positions (rows,) int64: the tables of a Work (work.py), which describes the arguments.

    COORDINATES > 0: positions are (rows, COORDINATES), and plane j reads number axes[j] of them. BATCHED: each batch of per_batch rows
    has words of its own, and its positions start `step` after those of the batch before. AMPLITUDES: each batch has an amplitude, too.
    DECAY: xPos.
    """
    row = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    plane = tl.arange(0, triton.next_power_of_2(PLANES))[None, :]
    inside = (row < rows) & (plane < PLANES)
    wide_row = row.to(tl.int64)  # row x PLANES may leave int32
    if BATCHED:
        batch = (row // per_batch).to(tl.int64)
        token = row % per_batch + batch * step
        words, has_words = batch * PLANES + plane, inside
    else:
        batch, token = 0, wide_row
        words, has_words = plane, plane < PLANES
    if COORDINATES > 0:
        axis = tl.load(axes + plane, mask=plane < PLANES)
        p = tl.load(positions + token * COORDINATES + axis, mask=inside)
    else:
        p = tl.load(positions + token, mask=row < rows)
    # Integer products wrap modulo 2^64, that is modulo one turn: turns.turns_along, operation by operation.
    h = tl.load(high + words, mask=has_words)
    turns = p * h
    if WORDS != _ONE:
        rest = tl.load(low + words, mask=has_words)
        turns = turns + (p >> 31) * rest + (((p & 0x7FFFFFFF) * rest) >> 31)
        if WORDS == _BOTH_WHERE_FAR:  # a near row has the bits that it has in a table without far ones
            near = (p >= -_FAR) & (p <= _FAR)
            turns = tl.where(near, p * (h + (rest >> 30)), turns)
    c, s = _cos_sin(turns)
    factor = tl.load(amplitude + batch, mask=row < rows) if AMPLITUDES else tl.load(amplitude)
    if DECAY:
        power = p.to(tl.float64) / tl.load(decay + PLANES)
        factor = _exp(power * tl.load(decay + plane, mask=plane < PLANES)) * factor
    at = wide_row * PLANES + plane
    tl.store(cos + at, (c * factor).to(cos.dtype.element_ty), mask=inside)
    tl.store(sin + at, (s * factor).to(sin.dtype.element_ty), mask=inside)


@triton.jit
def _cos_sin(turns):
    """polynomials.cos_sin, operation by operation, so that the bits are those of the CPU."""
    quarter = (turns + (1 << 61)) >> 62
    x = (turns - (quarter << 62)).to(tl.float64) * _RADIANS_PER_UNIT
    z = x * x
    s = z * _S17 + _S15
    s = z * s + _S13
    s = z * s + _S11
    s = z * s + _S9
    s = z * s + _S7
    s = z * s + _S5
    s = z * s + _S3
    s = x + x * (z * s)
    c = z * _C16 + _C14
    c = z * c + _C12
    c = z * c + _C10
    c = z * c + _C8
    c = z * c + _C6
    c = z * c + _C4
    c = 1.0 - (z * 0.5 - z * (z * c))
    swapped = (quarter & 1) == 1
    cos, sin = tl.where(swapped, s, c), tl.where(swapped, c, s)
    return tl.where(((quarter + 1) & 2) == 2, -cos, cos), tl.where((quarter & 2) == 2, -sin, sin)


@triton.jit
def _exp(x):
    """polynomials.exp, operation by operation, so that the bits are those of the CPU."""
    x = tl.where(x > _EXP_LIMIT, _EXP_LIMIT, tl.where(x < -_EXP_LIMIT, -_EXP_LIMIT, x))
    k = tl.floor(x * _LOG2_E + 0.5)
    rest = (x - k * _LN2_HIGH) - k * _LN2_LOW
    e = rest * _E13 + _E12
    e = e * rest + _E11
    e = e * rest + _E10
    e = e * rest + _E9
    e = e * rest + _E8
    e = e * rest + _E7
    e = e * rest + _E6
    e = e * rest + _E5
    e = e * rest + _E4
    e = e * rest + _E3
    e = e * rest + _E2
    e = e * rest + _E1
    e = e * rest + _E0
    power = k.to(tl.int64)
    half = power >> 1  # 2^power in two factors, as there: one alone leaves float64 where the result does not
    first = ((half + 1023) << 52).to(tl.float64, bitcast=True)
    second = ((power - half + 1023) << 52).to(tl.float64, bitcast=True)
    return e * first * second
