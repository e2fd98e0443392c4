"""Norm, rotation and write in one launch: what runs on the device. Imported by triton.py at its first launch.

A tile is rows of whole heads, a channel per column, filled up to a power of two. Every value that a plane mixes is computed twice, for the
channel and for its partner, from a second load of the row that the first-level cache holds: both pairings, any part of a head and any
layout of tables are index arithmetic then. Sums over a row are taken by halves, as ../_fused/sums.py says, two numbers at a time, so that
their bits do not depend on how a compiler spreads a row over threads.

Names: as in ../_rotation/triton_kernel.py; `v_` the values; `p` behind a name: of the partner of the channel.
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

_X = ("tokens", "seq", "heads", "x_b", "x_h", "x_s", "y_b", "y_h", "y_s", "table_b", "table_s")
_CACHE = ("v_heads", "v_b", "v_h", "v_s", "slots_b", "slots_s", "page", *(f"c{i}_{a}" for i in "kv" for a in "prh"))
_RUNTIME = [*(f"{x}_{name}" for x in "qk" for name in _X), *_CACHE]


@triton.jit
def _by_halves(t, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """(ROWS, WIDTH) -> (ROWS, 1): the second half of a row added to the first until one number is left."""
    for level in tl.static_range(WIDTH.bit_length() - 1):
        t = tl.sum(tl.reshape(t, [ROWS, 2, WIDTH >> (level + 1)]), 1)
    return tl.reshape(t, [ROWS, 1])


@triton.jit
def _rstd(v, DIM: tl.constexpr, EPS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """1 / sqrt(mean(v^2) + EPS), (ROWS, 1), root and quotient each rounded correctly."""
    mean = _by_halves(v * v, WIDTH, ROWS) * (1.0 / DIM) + EPS
    one = tl.full([ROWS, 1], 1.0, v.dtype)
    return one / tl.sqrt(mean) if v.dtype == tl.float64 else tl.div_rn(one, tl.sqrt_rn(mean))


@triton.jit
def _partner(channel, TURNED: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The other channel of the plane of a channel, itself past those that turn."""
    if INTERLEAVED:
        other = channel ^ 1
    else:
        other = tl.where(channel < TURNED // 2, channel + TURNED // 2, channel - TURNED // 2)
    return tl.where(channel < TURNED, other, channel)


@triton.jit
def _column(channel, TURNED: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The plane of a channel."""
    if INTERLEAVED:
        return channel // 2
    return tl.where(channel < TURNED // 2, channel, channel - TURNED // 2)


@triton.jit
def _second(channel, TURNED: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Whether a channel is the second of its plane."""
    if INTERLEAVED:
        return channel % 2 == 1
    return channel >= TURNED // 2


@triton.jit
def _turned(v, vp, c, s, second, turns):
    """x cos -+ its partner sin; what does not turn as it is."""
    return tl.where(turns, tl.where(second, v * c + vp * s, v * c - vp * s), v)


@triton.jit
def _rounded(v, dtype: tl.constexpr, MODEL: tl.constexpr):
    return v.to(dtype).to(v.dtype) if MODEL else v


@triton.jit(do_not_specialize=_RUNTIME)
def norm_rotate_kernel(
    q_x,
    q_y,
    q_w,
    q_cos,
    q_sin,
    k_x,
    k_y,
    k_w,
    k_cos,
    k_sin,
    v_x,
    cache_k,
    cache_v,
    slots,
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
    v_heads: tl.int32,
    v_b: tl.int64,
    v_h: tl.int64,
    v_s: tl.int64,
    slots_b: tl.int64,
    slots_s: tl.int64,
    page: tl.int32,
    ck_p: tl.int64,
    ck_r: tl.int64,
    ck_h: tl.int64,
    cv_p: tl.int64,
    cv_r: tl.int64,
    cv_h: tl.int64,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
    WEIGHTS: tl.constexpr,
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    MODEL: tl.constexpr,
    AFTER: tl.constexpr,
    IN_PLACE: tl.constexpr,
    STORE: tl.constexpr,
    BT: tl.constexpr,
    PAIR: tl.constexpr,
):
    """For BT tokens of one head of q, of k, or of the values: normalised where NORM says so, rotated, written to y; with STORE keys and
    values also to their slots. WEIGHTS: bit 0 for q, bit 1 for k. VALUE_DIM: channels of a value, 0 without STORE.

    Without branches: which tensor a program works on is a choice between numbers, so that the kernel runs in software too.
    """
    heads = q_heads
    if PAIR:
        heads += k_heads
    groups = heads
    if STORE:
        groups += v_heads
    program = tl.program_id(0)
    group = program % groups
    block = program // groups
    is_q, is_v = group < q_heads, group >= heads
    is_k = (group >= q_heads) & (group < heads)

    x, y, w, cos, sin = q_x, q_y, q_w, q_cos, q_sin
    tokens, seq, head = q_tokens, q_seq, group
    x_b, x_h, x_s, y_b, y_h, y_s = q_x_b, q_x_h, q_x_s, q_y_b, q_y_h, q_y_s
    table_b, table_s = q_table_b, q_table_s
    if PAIR:
        if is_k:
            x, y, w, cos, sin = k_x, k_y, k_w, k_cos, k_sin
            tokens, seq, head = k_tokens, k_seq, group - q_heads
            x_b, x_h, x_s, y_b, y_h, y_s = k_x_b, k_x_h, k_x_s, k_y_b, k_y_h, k_y_s
            table_b, table_s = k_table_b, k_table_s
    if STORE:
        if is_v:
            x, tokens, seq, head = v_x, k_tokens, k_seq, group - heads
            x_b, x_h, x_s = v_b, v_h, v_s

    token = block * BT + tl.arange(0, BT)[:, None]
    row, position = (token // seq).to(tl.int64), (token % seq).to(tl.int64)
    channel = tl.arange(0, WIDTH)[None, :]
    dim, turning, weighing = DIM, tokens, DIM
    if STORE:  # nothing of a value turns, has a weight, or is written to y
        dim, turning, weighing = tl.where(is_v, VALUE_DIM, DIM), tl.where(is_v, 0, tokens), tl.where(is_v, 0, DIM)
    here = (token < tokens) & (channel < dim)
    x += head.to(tl.int64) * x_h
    at = row * x_b + position * x_s
    stored = tl.load(x + at + channel, mask=here, other=0.0)
    number = cos.dtype.element_ty
    v = stored.to(number)

    turns = (token < turning) & (channel < TURNED)
    partner = _partner(channel, TURNED, INTERLEAVED)
    second = _second(channel, TURNED, INTERLEAVED)
    plane = _column(channel, TURNED, INTERLEAVED)
    vp = tl.load(x + at + partner, mask=turns, other=0.0).to(number)
    table = row * table_b + position * table_s + plane
    c = tl.load(cos + table, mask=turns, other=0.0)
    s = tl.load(sin + table, mask=turns, other=0.0)

    dtype = x.dtype.element_ty
    if NORM:
        if AFTER:
            v = _rounded(_turned(v, vp, c, s, second, turns), dtype, MODEL)
        r = _rstd(v, DIM, EPS, WIDTH, BT)
        v = _rounded(v * r, dtype, MODEL)
        if not AFTER:
            vp = _rounded(vp * r, dtype, MODEL)
        if WEIGHTS > 0:
            weighted = channel < weighing
            f = tl.load(w + channel, mask=weighted, other=0.0).to(number)
            fp = tl.load(w + partner, mask=weighted, other=0.0).to(number)
            if OFFSET != 0.0:
                f, fp = f + OFFSET, fp + OFFSET
            if WEIGHTS == 3:
                v = _rounded(v * f, dtype, MODEL)
                vp = _rounded(vp * fp, dtype, MODEL)
            else:  # of q alone, or of k alone
                has = is_q if WEIGHTS == 1 else is_k
                v = tl.where(has, _rounded(v * f, dtype, MODEL), v)
                vp = tl.where(has, _rounded(vp * fp, dtype, MODEL), vp)
        if not AFTER:
            v = _turned(v, vp, c, s, second, turns)
    else:
        v = _turned(v, vp, c, s, second, turns)

    result = v.to(dtype)
    if not NORM:  # what does not turn keeps its bits
        result = tl.where(turns, result, stored)
    if STORE:
        result = tl.where(is_v, stored, result)
    if IN_PLACE:
        tl.debug_barrier()  # the partner of a channel is read by another thread than the one that writes it
    written = (token < turning) & (channel < DIM)
    tl.store(y + head.to(tl.int64) * y_h + (row * y_b + position * y_s) + channel, result, mask=written)
    if STORE:
        slot = tl.load(slots + row * slots_b + position * slots_s, mask=token < tokens, other=-1).to(tl.int32)
        slot = tl.where(group >= q_heads, slot, -1)  # queries are not kept
        kept = here & (slot >= 0)
        slot = tl.where(slot >= 0, slot, 0)
        cache, p, r_, h_ = cache_k, ck_p, ck_r, ck_h
        if is_v:
            cache, p, r_, h_ = cache_v, cv_p, cv_r, cv_h
        place = (slot // page).to(tl.int64) * p + (slot % page).to(tl.int64) * r_ + head.to(tl.int64) * h_
        tl.store(cache + place + channel, result, mask=kept)
