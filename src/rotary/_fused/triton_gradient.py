"""The gradient of norm and rotation, device part: two kernels. Only triton_backward.py imports them, at its first launch.

A program of the first kernel takes BC chunks of 64 rows. Each thread has the same channels of all rows, so the sum over rows stays in its
registers, one row added after the other in the order of sums.over_rows. The number of programs depends on the number of rows alone, and
nothing is added atomically, so bits do not depend on timing. The second kernel adds the chunks by halves.

Names: as in triton_kernel.py; `g` the gradient of y (input), `d` the gradient of x (output).
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
from .triton_blocks import by_halves, factors, rounded, row_sum, rstd, scaled, select, table, times, turned

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
    """Write the gradient d of x from the gradient g of y. With SUMS, write for each chunk the sum of its rows of the gradient of the
    weight, a row of `partial`, those of q first.

    Row n of a chunk is read in step n // BR: each of `steps` steps reads BR rows of all BC chunks.

        step 0      chunk 0: rows 0 .. BR-1        chunk 1: rows 64 .. 64+BR-1       ...  chunk BC-1
        step 1      chunk 0: rows BR .. 2BR-1      chunk 1: rows 64+BR .. 64+2BR-1   ...
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
        # All loads before all stores: the compiler cannot know that a store does not overwrite what a later load reads. And in each row
        # all of x, then all of g, then the tables: in another order Triton 3.9 lays the blocks that are not rotated out as the result of
        # a sum, all channels in each thread, and registers spill (tests/_fused/test_triton_code.py).
        xs, gs, cs, ss, masks, outs = (), (), (), (), (), ()
        for _r in tl.static_range(BR):
            b, h, s = row.to(tl.int64), head.to(tl.int64), position.to(tl.int64)
            x_row, g_row = b * x_b + h * x_h + s * x_s, b * g_b + h * g_h + s * g_s
            outs = outs + (b * d_b + h * d_h + s * d_s,)
            has_row = left > 0
            for i in tl.static_range(BLOCKS):
                inside = has_row
                if (i + 1) * WIDTH > DIM:
                    inside = has_row & (channel < DIM - i * WIDTH)
                xs = xs + (tl.load(x + (x_row + (i * WIDTH + channel)), mask=inside, other=0.0),)
                masks = masks + (inside,)
            for i in tl.static_range(BLOCKS):
                inside = masks[len(gs)]
                gs = gs + (tl.load(g + (g_row + (i * WIDTH + channel)), mask=inside, other=0.0),)
            at_table = b * table_b + s * table_s
            cs = cs + (table(cos + at_table, has_row, PLANES, TILES),)
            ss = ss + (table(sin + at_table, has_row, PLANES, TILES),)
            # To the next row: heads fastest, then positions, then the batch. Without the divisions that (token, head) of a number takes.
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
                u = weighted if WEIGHTS == 3 else select(is_k if WEIGHTS == 2 else program < programs_of_q, weighted, u)
            mean = row_sum(times(u, v), BC, WIDTH, WHOLE, DIM) * (1.0 / DIM)
            of_x = ()
            for i in tl.static_range(BLOCKS):
                of_x = of_x + ((u[i] - v[i] * mean) * inverse,)
            if AFTER:
                of_x = turned(of_x, cs[r], ss[r], BC, WIDTH, INTERLEAVED, True)
            for i in tl.static_range(BLOCKS):
                at = outs[r] + (i * WIDTH + channel)
                tl.store(d + at, of_x[i].to(dtype), mask=masks[r * BLOCKS + i])
    if SUMS:
        at_sums = (row_of_sums + chunk).to(tl.int64) * DIM
        for i in tl.static_range(BLOCKS):
            inside = rows > n
            if (i + 1) * WIDTH > DIM:
                inside = inside & (channel < DIM - i * WIDTH)
            tl.store(partial + (at_sums + (i * WIDTH + channel)), total[i], mask=inside)


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
    """Add the rows of partial (q_chunks + k_chunks, DIM), those of q and those of k, by halves: each program all rows of CHANNELS channels.

    2^levels tiles of BN rows fill the rows up to a power of two. Halving adds tile t + 2^(levels-1) to tile t first, and so on. Read in
    the order of their numbers with the bits reversed, tiles that are added are read one after the other, and waiting[l] needs to keep one
    sum of 2^l tiles at most, like a binary counter. levels = 2:

        step   tile   waiting[0]   waiting[1]        added
        0      0      t0
        1      2                   t0+t2             t0 + t2
        2      1      t1           t0+t2
        3      3                                     t1 + t3, then (t0+t2) + (t1+t3)
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
        in_use = step < (1 << levels)  # q and k take steps for the longer of them
        inside = (n < tl.where(in_use, chunks, 0)) & (channel < DIM)
        t = tl.load(partial + ((first + n).to(tl.int64) * DIM + channel), mask=inside, other=0.0)
        still_waiting, carry = (), in_use
        for level in tl.static_range(LEVELS):
            second = (step >> level) & 1 == 1
            added = waiting[level] + t
            still_waiting = still_waiting + (tl.where(carry & (second == 0), t, waiting[level]),)
            carry = carry & second
            t = tl.where(carry, added, t)
        waiting = still_waiting
        total = tl.where(in_use, t, total)
    total = by_halves(tl.trans(total), CHANNELS, BN)
    column = block * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    tl.store(out + column, total, mask=column < DIM)
