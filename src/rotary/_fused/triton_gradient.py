"""The gradient of norm and rotation: what runs on the device, as two kernels. Imported by triton_backward.py at its first launch.

A program takes BC chunks of 64 rows, a thread the same channels of all of them, so that the sum over rows is kept in registers, one row
added after the other as sums.over_rows says. Rows count through batch, sequence and heads. How many programs there are follows from the
rows alone; nothing is added atomically. The second kernel adds the chunks by halves.

Names: as in triton_kernel.py; `g` the gradient that comes in, `d` the one that goes out.
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

from . import sums
from .triton_blocks import by_halves, chosen, factors, rounded, row_sum, rstd, scaled, table, times, turned

_CHUNK: tl.constexpr = tl.constexpr(sums.ROWS)
_X = ("rows", "seq", "heads", *(f"{t}_{a}" for t in "xgd" for a in "bhs"), "table_b", "table_s")
_RUNTIME = [*(f"{x}_{name}" for x in "qk" for name in _X), "q_chunks", "steps"]


@triton.jit(do_not_specialize=_RUNTIME)
def norm_rotate_backward_kernel(
    q_x,
    q_g,
    q_d,
    q_w,
    q_cos,
    q_sin,
    k_x,
    k_g,
    k_d,
    k_w,
    k_cos,
    k_sin,
    partial,
    q_rows: tl.int32,
    q_seq: tl.int32,
    q_heads: tl.int32,
    q_x_b: tl.int64,
    q_x_h: tl.int64,
    q_x_s: tl.int64,
    q_g_b: tl.int64,
    q_g_h: tl.int64,
    q_g_s: tl.int64,
    q_d_b: tl.int64,
    q_d_h: tl.int64,
    q_d_s: tl.int64,
    q_table_b: tl.int64,
    q_table_s: tl.int64,
    k_rows: tl.int32,
    k_seq: tl.int32,
    k_heads: tl.int32,
    k_x_b: tl.int64,
    k_x_h: tl.int64,
    k_x_s: tl.int64,
    k_g_b: tl.int64,
    k_g_h: tl.int64,
    k_g_s: tl.int64,
    k_d_b: tl.int64,
    k_d_h: tl.int64,
    k_d_s: tl.int64,
    k_table_b: tl.int64,
    k_table_s: tl.int64,
    q_chunks: tl.int32,
    steps: tl.int32,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    TABLE_UNIT: tl.constexpr,
    BC: tl.constexpr,
    BR: tl.constexpr,
    WEIGHTS: tl.constexpr,
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    MODEL: tl.constexpr,
    AFTER: tl.constexpr,
    SUMS: tl.constexpr,
    PAIR: tl.constexpr,
):
    """The gradient d of x from the gradient g of y, and, with SUMS, for each chunk the sum of the rows of the gradient of the weight: a
    row of `partial`, those of q first. BR rows are read at once, `steps` times: as many as a chunk has.
    """
    BLOCKS: tl.constexpr = (DIM + WIDTH - 1) // WIDTH
    WHOLE: tl.constexpr = triton.next_power_of_2(BLOCKS)
    TILES: tl.constexpr = TURNED // WIDTH if INTERLEAVED else TURNED // 2 // WIDTH
    PLANES: tl.constexpr = WIDTH // 2 if INTERLEAVED and WIDTH > 1 else WIDTH

    program = tl.program_id(0)
    programs_of_q = (q_chunks + BC - 1) // BC
    x, g, d, w, cos, sin = q_x, q_g, q_d, q_w, q_cos, q_sin
    rows, seq, heads, first, row_of_sums = q_rows, q_seq, q_heads, program, 0
    x_b, x_h, x_s, g_b, g_h, g_s, d_b, d_h, d_s = q_x_b, q_x_h, q_x_s, q_g_b, q_g_h, q_g_s, q_d_b, q_d_h, q_d_s
    table_b, table_s = q_table_b, q_table_s
    is_k = program >= programs_of_q
    if PAIR:
        if is_k:
            x, g, d, w, cos, sin = k_x, k_g, k_d, k_w, k_cos, k_sin
            rows, seq, heads, first, row_of_sums = k_rows, k_seq, k_heads, program - programs_of_q, q_chunks
            x_b, x_h, x_s, g_b, g_h, g_s, d_b, d_h, d_s = k_x_b, k_x_h, k_x_s, k_g_b, k_g_h, k_g_s, k_d_b, k_d_h, k_d_s
            table_b, table_s = k_table_b, k_table_s
    x_b, x_h, x_s = x_b // UNIT * UNIT, x_h // UNIT * UNIT, x_s // UNIT * UNIT
    g_b, g_h, g_s = g_b // UNIT * UNIT, g_h // UNIT * UNIT, g_s // UNIT * UNIT
    d_b, d_h, d_s = d_b // UNIT * UNIT, d_h // UNIT * UNIT, d_s // UNIT * UNIT
    table_b, table_s = table_b // TABLE_UNIT * TABLE_UNIT, table_s // TABLE_UNIT * TABLE_UNIT

    number = cos.dtype.element_ty
    dtype = x.dtype.element_ty
    channel = tl.arange(0, WIDTH)[None, :]
    chunk = first * BC + tl.arange(0, BC)[:, None]
    n = chunk * _CHUNK
    left = rows - n
    token, head = n // heads, n % heads
    row, position = token // seq, token % seq
    if WEIGHTS > 0:
        f = factors(w, number, BC, WIDTH, DIM, OFFSET)
    total = ()
    for _ in tl.static_range(BLOCKS):
        total = total + (tl.zeros([BC, WIDTH], number),)

    for _ in range(steps):
        # Every load comes before every store: the compiler cannot know that what is written is not read again. Of a row all of x, then all
        # of g, then the tables: in another order Triton 3.9 gives blocks that do not turn the layout that a sum is left in, where each
        # thread holds all channels, and registers spill (tests/_fused/test_triton_code.py).
        xs, gs, cs, ss, heres, outs = (), (), (), (), (), ()
        for _r in tl.static_range(BR):
            b, h, s = row.to(tl.int64), head.to(tl.int64), position.to(tl.int64)
            x_row, g_row = b * x_b + h * x_h + s * x_s, b * g_b + h * g_h + s * g_s
            outs = outs + (b * d_b + h * d_h + s * d_s,)
            there = left > 0
            for i in tl.static_range(BLOCKS):
                here = there
                if (i + 1) * WIDTH > DIM:
                    here = there & (channel < DIM - i * WIDTH)
                xs = xs + (tl.load(x + (x_row + (i * WIDTH + channel)), mask=here, other=0.0),)
                heres = heres + (here,)
            for i in tl.static_range(BLOCKS):
                here = heres[len(gs)]
                gs = gs + (tl.load(g + (g_row + (i * WIDTH + channel)), mask=here, other=0.0),)
            at_table = b * table_b + s * table_s
            cs = cs + (table(cos + at_table, there, PLANES, TILES),)
            ss = ss + (table(sin + at_table, there, PLANES, TILES),)
            left -= 1
            head += 1
            position += tl.where(head == heads, 1, 0)
            head = tl.where(head == heads, 0, head)
            row += tl.where(position == seq, 1, 0)
            position = tl.where(position == seq, 0, position)
        for r in tl.static_range(BR):
            v, u = (), ()
            for i in tl.static_range(BLOCKS):
                v = v + (xs[r * BLOCKS + i].to(number),)
                u = u + (gs[r * BLOCKS + i].to(number),)
            if AFTER:
                v = turned(v, cs[r], ss[r], BC, WIDTH, INTERLEAVED, False)
                if MODEL:
                    v = rounded(v, dtype)
            else:
                u = turned(u, cs[r], ss[r], BC, WIDTH, INTERLEAVED, True)
            inverse = rstd(v, BC, WIDTH, WHOLE, DIM, EPS)
            v = scaled(v, inverse)
            if SUMS:
                of_rows = times(u, rounded(v, dtype) if MODEL else v)
                added = ()
                for i in tl.static_range(BLOCKS):
                    added = added + (total[i] + of_rows[i],)
                total = added
            if WEIGHTS > 0:
                weighted = times(u, f)
                u = weighted if WEIGHTS == 3 else chosen(is_k if WEIGHTS == 2 else program < programs_of_q, weighted, u)
            mean = row_sum(times(u, v), BC, WIDTH, WHOLE, DIM) * (1.0 / DIM)
            of_x = ()
            for i in tl.static_range(BLOCKS):
                of_x = of_x + ((u[i] - v[i] * mean) * inverse,)
            if AFTER:
                of_x = turned(of_x, cs[r], ss[r], BC, WIDTH, INTERLEAVED, True)
            for i in tl.static_range(BLOCKS):
                at = outs[r] + (i * WIDTH + channel)
                tl.store(d + at, of_x[i].to(dtype), mask=heres[r * BLOCKS + i])
    if SUMS:
        at_sums = (row_of_sums + chunk).to(tl.int64) * DIM
        for i in tl.static_range(BLOCKS):
            here = rows > n
            if (i + 1) * WIDTH > DIM:
                here = here & (channel < DIM - i * WIDTH)
            tl.store(partial + (at_sums + (i * WIDTH + channel)), total[i], mask=here)


@triton.jit(do_not_specialize=["q_chunks", "k_chunks", "programs", "q_levels", "k_levels", "steps"])
def add_chunks_kernel(
    partial,
    q_out,
    k_out,
    q_chunks: tl.int32,
    k_chunks: tl.int32,
    programs: tl.int32,
    q_levels: tl.int32,
    k_levels: tl.int32,
    steps: tl.int32,
    DIM: tl.constexpr,
    BN: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """The rows of partial (q_chunks + k_chunks, DIM), those of q and of k, added by halves: a program all rows of CHANNELS channels.

    2^levels tiles of BN rows fill the rows up to a power of two. Read in the order in which halving joins them (the number of a tile with
    its bits reversed), two sums of equal size are next to each other, and `waiting` keeps one of each size at most.
    """
    program = tl.program_id(0)
    out, first, chunks, levels, block = q_out, 0, q_chunks, q_levels, program
    if program >= programs:
        out, first, chunks, levels, block = k_out, q_chunks, k_chunks, k_levels, program - programs
    channel = block * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    row = tl.arange(0, BN)[:, None]
    number = partial.dtype.element_ty
    total = tl.zeros([BN, CHANNELS], number)
    waiting = ()
    for _ in tl.static_range(LEVELS):
        waiting = waiting + (total,)
    for step in range(steps):
        tile = 0 * step
        for level in tl.static_range(LEVELS):
            tile += ((step >> level) & 1) << tl.maximum(levels - 1 - level, 0)
        n = tile * BN + row
        mine = step < (1 << levels)
        there = (n < tl.where(mine, chunks, 0)) & (channel < DIM)
        t = tl.load(partial + ((first + n).to(tl.int64) * DIM + channel), mask=there, other=0.0)
        kept, joining = (), mine
        for level in tl.static_range(LEVELS):
            second = (step >> level) & 1 == 1
            joined = waiting[level] + t
            kept = kept + (tl.where(joining & (second == 0), t, waiting[level]),)
            joining = joining & second
            t = tl.where(joining, joined, t)
        waiting = kept
        total = tl.where(mine, t, total)
    total = by_halves(tl.trans(total), CHANNELS, BN)
    column = block * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    tl.store(out + column, total, mask=column < DIM)
