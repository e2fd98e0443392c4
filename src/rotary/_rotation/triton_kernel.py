"""The GPU kernel of the rotation, in Triton. Only triton.py imports it, at its first launch.

Names: `q_`, `k_` the two tensors; `x` the one that this program rotates, `y` its output; `_b`, `_h`, `_s` strides of batch, heads and
sequence in elements; `BT` tokens and `BH` heads per program; capitals are known when the kernel is compiled. A tile is (BT, channels):

                 channels 0 .. DIM, DIM + TAIL
    token 0      a a a a | b b b b | t t        half pairing: a and b are two tiles of WIDTH planes; t, the tail, is copied
    token 1      a a a a | b b b b | t t
    token 0      a b a b   a b a b | t t        interleaved: one tile of 2 WIDTH channels, split into a and b in registers
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

# Not specialised: otherwise Triton compiles another kernel wherever one of these is 1 or divisible by 16, that is for other lengths,
# batches, heads and strides. UNIT and TABLE_UNIT state the divisibility that wide loads need.
_RUNTIME = [
    name
    for x in ("q", "k")
    for name in (
        f"{x}_tokens",
        f"{x}_seq",
        f"{x}_heads",
        *(f"{x}_{tensor}_{axis}" for tensor in ("x", "y") for axis in "bhs"),
        f"{x}_table_b",
        f"{x}_table_s",
    )
] + ["conjugate", "transposed"]


@triton.jit(do_not_specialize=_RUNTIME)
def rotate_kernel(
    q_x,
    q_y,
    q_cos,
    q_sin,
    k_x,
    k_y,
    k_cos,
    k_sin,
    q_tokens: tl.int32,
    q_seq: tl.int32,
    q_heads: tl.int32,
    q_x_b: tl.int64,
    q_x_h: tl.int64,
    q_x_s: tl.int64,
    q_y_b: tl.int64,
    q_y_h: tl.int64,
    q_y_s: tl.int64,
    q_table_b: tl.int64,
    q_table_s: tl.int64,
    k_tokens: tl.int32,
    k_seq: tl.int32,
    k_heads: tl.int32,
    k_x_b: tl.int64,
    k_x_h: tl.int64,
    k_x_s: tl.int64,
    k_y_b: tl.int64,
    k_y_h: tl.int64,
    k_y_s: tl.int64,
    k_table_b: tl.int64,
    k_table_s: tl.int64,
    conjugate: tl.int32,
    transposed: tl.int32,
    DIM: tl.constexpr,
    TAIL: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    TABLE_UNIT: tl.constexpr,
    BT: tl.constexpr,
    BH: tl.constexpr,
    PAIR: tl.constexpr,
):
    """Write y = x (cos + i sin), or x (cos - i sin), for BT tokens of BH heads of q or of k, and copy TAIL channels past DIM.

    COLUMNS: columns of the tables. 0: one per plane. 1: one per channel, all first channels before all second ones. 2: one per channel,
    the two of a plane adjacent. With one per channel the two of a plane may differ: y_a = a cos_a - b sin_a, y_b = b cos_b + a sin_b.
    `transposed` exchanges sin_a and sin_b; together with the other direction that is the gradient.

    Tokens are counted through the batch: token n is position n % seq of row n // seq. Programs are numbered with head groups fastest,
    those of q, then those of k, then blocks of tokens: programs that run together read the same rows of the tables, and adjacent memory
    of (batch, seq, heads, dim) tensors.

        q 3 groups, k 1 group:   program   0   1   2   3 | 4   5   6   7 | ...
                                 group     q0  q1  q2  k0  q0  q1  q2  k0
                                 tokens    block 0         block 1
    """
    PLANES: tl.constexpr = DIM // 2
    WIDTH: tl.constexpr = triton.next_power_of_2(PLANES) if PLANES > 0 else 1  # no planes: a tile of one, masked
    TAIL_WIDTH: tl.constexpr = triton.next_power_of_2(TAIL) if TAIL > 0 else 0

    q_groups = (q_heads + BH - 1) // BH
    groups = q_groups
    if PAIR:
        groups += (k_heads + BH - 1) // BH
    program = tl.program_id(0)
    group = program % groups
    block = program // groups

    if group < q_groups:
        x, y, cos, sin = q_x, q_y, q_cos, q_sin
        tokens, seq, heads = q_tokens, q_seq, q_heads
        x_b, x_h, x_s, y_b, y_h, y_s = q_x_b, q_x_h, q_x_s, q_y_b, q_y_h, q_y_s
        table_b, table_s = q_table_b, q_table_s
        head = group * BH
    else:
        x, y, cos, sin = k_x, k_y, k_cos, k_sin
        tokens, seq, heads = k_tokens, k_seq, k_heads
        x_b, x_h, x_s, y_b, y_h, y_s = k_x_b, k_x_h, k_x_s, k_y_b, k_y_h, k_y_s
        table_b, table_s = k_table_b, k_table_s
        head = (group - q_groups) * BH

    # The launcher has checked that UNIT and TABLE_UNIT divide the strides: x // UNIT * UNIT tells the compiler about divisibility.
    x_b, x_h, x_s = x_b // UNIT * UNIT, x_h // UNIT * UNIT, x_s // UNIT * UNIT
    y_b, y_h, y_s = y_b // UNIT * UNIT, y_h // UNIT * UNIT, y_s // UNIT * UNIT
    table_b, table_s = table_b // TABLE_UNIT * TABLE_UNIT, table_s // TABLE_UNIT * TABLE_UNIT

    token = block * BT + tl.arange(0, BT)[:, None]
    row, position = (token // seq).to(tl.int64), (token % seq).to(tl.int64)
    plane = tl.arange(0, WIDTH)[None, :]
    table = row * table_b + position * table_s + plane
    turning = (token < tokens) & (plane < PLANES)
    if COLUMNS == 2:
        column = tl.arange(0, 2 * WIDTH)[None, :]
        wide = row * table_b + position * table_s + column
        inside = (token < tokens) & (column < DIM)
        c_a, c_b = tl.split(tl.reshape(tl.load(cos + wide, mask=inside), [BT, WIDTH, 2]))
        s_a, s_b = tl.split(tl.reshape(tl.load(sin + wide, mask=inside), [BT, WIDTH, 2]))
    else:
        c_a = tl.load(cos + table, mask=turning)
        s_a = tl.load(sin + table, mask=turning)
        c_b, s_b = c_a, s_a
        if COLUMNS == 1:
            c_b = tl.load(cos + (table + PLANES), mask=turning)
            s_b = tl.load(sin + (table + PLANES), mask=turning)
    if COLUMNS > 0:
        number = tl.float64 if cos.dtype.element_ty == tl.float64 else tl.float32
        c_a, c_b, s_a, s_b = c_a.to(number), c_b.to(number), s_a.to(number), s_b.to(number)
        s_a, s_b = tl.where(transposed != 0, s_b, s_a), tl.where(transposed != 0, s_a, s_b)
    s_a, s_b = tl.where(conjugate != 0, -s_a, s_a), tl.where(conjugate != 0, -s_b, s_b)

    x += head.to(tl.int64) * x_h
    y += head.to(tl.int64) * y_h
    x_row, y_row = row * x_b + position * x_s, row * y_b + position * y_s

    # All loads before all stores: y may be x for all that the compiler knows, so a load behind a store would wait for it, head by head.
    first, second, tail = (), (), ()
    for h in tl.static_range(BH):
        inside = token < tl.where(head + h < heads, tokens, 0)  # a head past the last has no tokens
        if INTERLEAVED:
            channel = tl.arange(0, 2 * WIDTH)[None, :]
            first = first + (tl.load(x + h * x_h + (x_row + channel), mask=inside & (channel < DIM)),)
        else:
            first = first + (tl.load(x + h * x_h + (x_row + plane), mask=inside & (plane < PLANES)),)
            second = second + (tl.load(x + h * x_h + (x_row + (plane + PLANES)), mask=inside & (plane < PLANES)),)
        if TAIL > 0:
            past = tl.arange(0, TAIL_WIDTH)[None, :]
            tail = tail + (tl.load(x + h * x_h + (x_row + (past + DIM)), mask=inside & (past < TAIL)),)
    for h in tl.static_range(BH):
        inside = token < tl.where(head + h < heads, tokens, 0)
        if INTERLEAVED:
            channel = tl.arange(0, 2 * WIDTH)[None, :]
            a, b = tl.split(tl.reshape(first[h], [BT, WIDTH, 2]))
        else:
            a, b = first[h], second[h]
        a, b = a.to(c_a.dtype), b.to(c_a.dtype)
        first_turned = (a * c_a - b * s_a).to(y.dtype.element_ty)
        second_turned = (b * c_b + a * s_b).to(y.dtype.element_ty)
        if INTERLEAVED:
            both = tl.reshape(tl.join(first_turned, second_turned), [BT, 2 * WIDTH])
            tl.store(y + h * y_h + (y_row + channel), both, mask=inside & (channel < DIM))
        else:
            tl.store(y + h * y_h + (y_row + plane), first_turned, mask=inside & (plane < PLANES))
            tl.store(y + h * y_h + (y_row + (plane + PLANES)), second_turned, mask=inside & (plane < PLANES))
        if TAIL > 0:
            past = tl.arange(0, TAIL_WIDTH)[None, :]
            tl.store(y + h * y_h + (y_row + (past + DIM)), tail[h], mask=inside & (past < TAIL))
