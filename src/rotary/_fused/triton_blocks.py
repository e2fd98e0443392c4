"""A row in registers, on the device: blocks of channels, a tile (ROWS, WIDTH) each, which the kernels of this room keep in a tuple.

A row is read from memory once. WIDTH is a power of two that divides half of the rotated channels (half pairing), or all of them
(interleaved). So both channels of a plane are in the registers of one thread. 96 channels, 80 of them rotated:

    half, WIDTH 8           t[0] .. t[4] | t[5] .. t[9] | t[10], t[11]       plane j: element j % 8 of t[j // 8] and of t[5 + j // 8]
    interleaved, WIDTH 16   t[0]   ...            t[4]  | t[5]               plane j: elements 2j % 16 and 2j % 16 + 1 of t[j // 8]

The sum of a row is that of sums.by_halves: blocks first, element by element, then within the last one.
"""
# The types of Triton's language are its own (a pointer, a tile), and exist only while it traces this function:
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportInvalidTypeForm=false
# pyright: reportAssignmentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def by_halves(t, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """(ROWS, WIDTH) -> (ROWS, 1): the second half of a row added to the first until one number is left."""
    for level in tl.static_range(WIDTH.bit_length() - 1):
        t = tl.sum(tl.reshape(t, [ROWS, 2, WIDTH >> (level + 1)]), 1)
    return tl.reshape(t, [ROWS, 1])


@triton.jit
def row_sum(t, ROWS: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, DIM: tl.constexpr):
    """(ROWS, 1), the sum of each row by halves. WHOLE: the number of blocks filled up to a power of two; those not in t are zeros."""
    for level in tl.static_range(WHOLE.bit_length() - 1):
        added = ()
        for i in tl.static_range(min(WHOLE >> (level + 1), len(t))):
            if i + (WHOLE >> (level + 1)) < len(t):
                added = added + (t[i] + t[i + (WHOLE >> (level + 1))],)
            else:
                added = added + (t[i],)
        t = added
    one = by_halves(t[0], ROWS, WIDTH)
    return one if WIDTH * WHOLE == DIM and DIM >= 16 else one + 0.0  # zeros that fill up turn a sum of -0 into 0


@triton.jit
def rstd(t, ROWS: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, DIM: tl.constexpr, EPS: tl.constexpr):
    """1 / sqrt(mean(t^2) + EPS), (ROWS, 1), root and quotient each rounded correctly."""
    mean = row_sum(times(t, t), ROWS, WIDTH, WHOLE, DIM) * (1.0 / DIM) + EPS
    one = tl.full([ROWS, 1], 1.0, mean.dtype)
    return one / tl.sqrt(mean) if mean.dtype == tl.float64 else tl.div_rn(one, tl.sqrt_rn(mean))


@triton.jit
def times(t, u):
    """t u, block by block."""
    out = ()
    for i in tl.static_range(len(t)):
        out = out + (t[i] * u[i],)
    return out


@triton.jit
def scaled(t, r):
    """t r, r one number per row."""
    out = ()
    for i in tl.static_range(len(t)):
        out = out + (t[i] * r,)
    return out


@triton.jit
def rounded(t, dtype: tl.constexpr):
    """Rounded to this dtype, in the dtype of t."""
    out = ()
    for i in tl.static_range(len(t)):
        out = out + (t[i].to(dtype).to(t[i].dtype),)
    return out


@triton.jit
def select(condition, t, u):
    """t where the condition holds, u elsewhere."""
    out = ()
    for i in tl.static_range(len(t)):
        out = out + (tl.where(condition, t[i], u[i]),)
    return out


@triton.jit
def factors(w, number: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr, OFFSET: tl.constexpr):
    """weight + OFFSET as blocks (ROWS, WIDTH), equal in all rows: in the layout of a row, so that each thread reads what it multiplies."""
    channel = tl.broadcast_to(tl.arange(0, WIDTH)[None, :], [ROWS, WIDTH])
    out = ()
    for i in tl.static_range((DIM + WIDTH - 1) // WIDTH):
        if (i + 1) * WIDTH <= DIM:
            f = tl.load(w + (i * WIDTH + channel)).to(number)
        else:
            f = tl.load(w + (i * WIDTH + channel), mask=i * WIDTH + channel < DIM, other=0.0).to(number)
        out = out + (f + OFFSET if OFFSET != 0.0 else f,)
    return out


@triton.jit
def table(t, inside, WIDTH: tl.constexpr, TILES: tl.constexpr):
    """The rows of a table at pointers t (ROWS, 1), as TILES tiles (ROWS, WIDTH)."""
    plane = tl.arange(0, WIDTH)[None, :]
    out = ()
    for i in tl.static_range(TILES):
        out = out + (tl.load(t + (i * WIDTH + plane), mask=inside, other=0.0),)
    return out


@triton.jit
def turned(t, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr, INTERLEAVED: tl.constexpr, BACK: tl.constexpr):
    """Rotated blocks, with BACK in the other direction; blocks past the rotated channels as they are."""
    TILES: tl.constexpr = len(cos)
    out = ()
    if INTERLEAVED:
        for i in tl.static_range(TILES):
            a, b = tl.split(tl.reshape(t[i], [ROWS, WIDTH // 2, 2]))
            if BACK:
                both = tl.join(a * cos[i] + b * sin[i], b * cos[i] - a * sin[i])
            else:
                both = tl.join(a * cos[i] - b * sin[i], b * cos[i] + a * sin[i])
            out = out + (tl.reshape(both, [ROWS, WIDTH]),)
        for i in tl.static_range(TILES, len(t)):
            out = out + (t[i],)
    else:
        for i in tl.static_range(TILES):
            if BACK:
                out = out + (t[i] * cos[i] + t[i + TILES] * sin[i],)
            else:
                out = out + (t[i] * cos[i] - t[i + TILES] * sin[i],)
        for i in tl.static_range(TILES):
            if BACK:
                out = out + (t[i + TILES] * cos[i] - t[i] * sin[i],)
            else:
                out = out + (t[i + TILES] * cos[i] + t[i] * sin[i],)
        for i in tl.static_range(2 * TILES, len(t)):
            out = out + (t[i],)
    return out
