"""Norm, rotation and write in one launch, device part. Only triton.py imports it, at its first launch.

A program takes BT tokens of BH heads of q, of k, or of the values. Each row is read once, as blocks of channels (triton_blocks.py), and
all rows of a program before it writes anything.

Names: as in ../_rotation/triton_kernel.py; `v_` the values; `cache_k`, `cache_v` (pages, page, heads, channels) with strides `_p`, `_r`,
`_h`; a block has WIDTH channels, a row BLOCKS blocks.
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

from .triton_blocks import factors, rounded, rstd, scaled, select, table, times, turned

_X = ("tokens", "seq", "heads", "x_b", "x_h", "x_s", "y_b", "y_h", "y_s", "table_b", "table_s")
_CACHE = ("v_heads", "v_b", "v_h", "v_s", "slots_b", "slots_s", "page", *(f"c{i}_{a}" for i in "kv" for a in "prh"))
_RUNTIME = [*(f"{x}_{name}" for x in "qk" for name in _X), *_CACHE]


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
    INTERLEAVED: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    TABLE_UNIT: tl.constexpr,
    BT: tl.constexpr,
    BH: tl.constexpr,
    NORM: tl.constexpr,
    WEIGHTS: tl.constexpr,
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    MODEL: tl.constexpr,
    AFTER: tl.constexpr,
    IN_PLACE: tl.constexpr,
    STORE: tl.constexpr,
    PAIR: tl.constexpr,
):
    """Normalise (with NORM) and rotate BT tokens of BH heads of q or k into y; with STORE write keys and values to their slots.

    WEIGHTS: bit 0, q has a weight; bit 1, k has one. VALUE_DIM: channels of a value, 0 without STORE.

        program     groups of q | groups of k (PAIR) | groups of the values (STORE)        then the next block of tokens
        reads       q             k                    v
        writes      y             y, cache             cache

    Which tensor a program takes is a choice between pointers and numbers; the code that computes has no branches, so it runs in the
    software GPU of the tests too.
    """
    BLOCKS: tl.constexpr = (DIM + WIDTH - 1) // WIDTH  # of a row of q or k
    LOADED: tl.constexpr = (max(DIM, VALUE_DIM) + WIDTH - 1) // WIDTH  # of a row of q, k or the values
    WHOLE: tl.constexpr = triton.next_power_of_2(BLOCKS)
    TILES: tl.constexpr = TURNED // WIDTH if INTERLEAVED else TURNED // 2 // WIDTH  # of a row of a table
    PLANES: tl.constexpr = WIDTH // 2 if INTERLEAVED and WIDTH > 1 else WIDTH  # of one of them

    q_groups = (q_heads + BH - 1) // BH
    groups = q_groups
    if PAIR:
        groups += (k_heads + BH - 1) // BH
    all_groups = groups
    if STORE:
        all_groups += (v_heads + BH - 1) // BH
    program = tl.program_id(0)
    group = program % all_groups
    block = program // all_groups
    is_q, is_v = group < q_groups, group >= groups
    is_k = (group >= q_groups) & (group < groups)

    x, y, w, cos, sin = q_x, q_y, q_w, q_cos, q_sin
    tokens, seq, heads, head = q_tokens, q_seq, q_heads, group * BH
    x_b, x_h, x_s, y_b, y_h, y_s = q_x_b, q_x_h, q_x_s, q_y_b, q_y_h, q_y_s
    table_b, table_s = q_table_b, q_table_s
    if PAIR:
        if is_k:
            x, y, w, cos, sin = k_x, k_y, k_w, k_cos, k_sin
            tokens, seq, heads, head = k_tokens, k_seq, k_heads, (group - q_groups) * BH
            x_b, x_h, x_s, y_b, y_h, y_s = k_x_b, k_x_h, k_x_s, k_y_b, k_y_h, k_y_s
            table_b, table_s = k_table_b, k_table_s
    if STORE:
        if is_v:
            x, tokens, seq, heads, head = v_x, k_tokens, k_seq, v_heads, (group - groups) * BH
            x_b, x_h, x_s = v_b, v_h, v_s

    # The launcher has checked that UNIT and TABLE_UNIT divide the strides: x // UNIT * UNIT tells the compiler about divisibility.
    x_b, x_h, x_s = x_b // UNIT * UNIT, x_h // UNIT * UNIT, x_s // UNIT * UNIT
    y_b, y_h, y_s = y_b // UNIT * UNIT, y_h // UNIT * UNIT, y_s // UNIT * UNIT
    table_b, table_s = table_b // TABLE_UNIT * TABLE_UNIT, table_s // TABLE_UNIT * TABLE_UNIT

    token = block * BT + tl.arange(0, BT)[:, None]
    row, position = (token // seq).to(tl.int64), (token % seq).to(tl.int64)
    channel = tl.arange(0, WIDTH)[None, :]
    number = cos.dtype.element_ty
    dtype = x.dtype.element_ty
    turning = tokens
    if STORE:  # nothing of a value turns or is written to y
        turning = tl.where(is_v, 0, tokens)
    at_table = row * table_b + position * table_s
    c = table(cos + at_table, token < turning, PLANES, TILES)
    s = table(sin + at_table, token < turning, PLANES, TILES)

    x += head.to(tl.int64) * x_h
    y += head.to(tl.int64) * y_h
    x_row, y_row = row * x_b + position * x_s, row * y_b + position * y_s

    # All loads before all stores: y may be x for all that the compiler knows, so a load behind a store would wait for it, head by head.
    loaded, masks = (), ()
    for h in tl.static_range(BH):
        for i in tl.static_range(LOADED):
            count = tl.where(head + h < heads, tokens, 0)  # a head past the last has no tokens
            if STORE:
                if i * WIDTH >= VALUE_DIM:
                    count = tl.where(is_v, 0, count)
                if i * WIDTH >= DIM:
                    count = tl.where(is_v, count, 0)
            inside = token < count
            if STORE:
                if (i + 1) * WIDTH > min(DIM, VALUE_DIM):
                    inside = inside & (channel < tl.where(is_v, VALUE_DIM - i * WIDTH, DIM - i * WIDTH))
            elif (i + 1) * WIDTH > DIM:
                inside = inside & (channel < DIM - i * WIDTH)
            loaded = loaded + (tl.load(x + h * x_h + (x_row + (i * WIDTH + channel)), mask=inside, other=0.0),)
            masks = masks + (inside,)
    if NORM and WEIGHTS > 0:
        f = factors(w, number, BT, WIDTH, DIM, OFFSET)
    if IN_PLACE:
        tl.debug_barrier()  # a channel may be read by another thread than the one that writes it
    if STORE:
        ck_p, ck_r, ck_h = ck_p // UNIT * UNIT, ck_r // UNIT * UNIT, ck_h // UNIT * UNIT
        cv_p, cv_r, cv_h = cv_p // UNIT * UNIT, cv_r // UNIT * UNIT, cv_h // UNIT * UNIT
        slot = tl.load(slots + row * slots_b + position * slots_s, mask=token < tokens, other=-1).to(tl.int32)
        slot = tl.where(group >= q_groups, slot, -1)  # queries are not stored
        has_slot = slot >= 0
        slot = tl.where(has_slot, slot, 0)
        cache, cache_p, cache_r, cache_h = cache_k, ck_p, ck_r, ck_h
        if is_v:
            cache, cache_p, cache_r, cache_h = cache_v, cv_p, cv_r, cv_h
        at_page, at_row = (slot // page).to(tl.int64) * cache_p, (slot % page).to(tl.int64) * cache_r
        at_cache = at_page + at_row + head.to(tl.int64) * cache_h

    for h in tl.static_range(BH):
        t = ()
        for i in tl.static_range(BLOCKS):
            t = t + (loaded[h * LOADED + i].to(number),)
        if NORM:
            if AFTER:
                t = turned(t, c, s, BT, WIDTH, INTERLEAVED, False)
                if MODEL:
                    t = rounded(t, dtype)
            t = scaled(t, rstd(t, BT, WIDTH, WHOLE, DIM, EPS))
            if MODEL:
                t = rounded(t, dtype)
            if WEIGHTS > 0:
                n = times(t, f)
                if MODEL:
                    n = rounded(n, dtype)
                # One weight of the two: programs of the other tensor compute the product as well and drop it.
                t = n if WEIGHTS == 3 else select(is_q if WEIGHTS == 1 else is_k, n, t)
            if not AFTER:
                t = turned(t, c, s, BT, WIDTH, INTERLEAVED, False)
        else:
            t = turned(t, c, s, BT, WIDTH, INTERLEAVED, False)
        for i in tl.static_range(LOADED):
            out = loaded[h * LOADED + i]
            inside = masks[h * LOADED + i]
            if i < BLOCKS:
                if NORM or (i + 1) * WIDTH <= TURNED:  # without a norm, channels that do not turn keep their bits
                    result = t[i].to(dtype)
                    out = tl.where(is_v, out, result) if STORE else result
                tl.store(y + h * y_h + (y_row + (i * WIDTH + channel)), out, mask=inside & (token < turning))
            if STORE:
                tl.store(cache + h * cache_h + (at_cache + (i * WIDTH + channel)), out, mask=inside & has_slot)
