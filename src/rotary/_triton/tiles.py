"""How much one program of a GPU kernel does: rows of a tile, heads, warps; from sizes alone, never from a measurement at run time."""

from __future__ import annotations

from typing import NamedTuple

from .launch import ACCESS


class Tile(NamedTuple):
    """The work of one program: so many heads of so many tokens, with so many warps."""

    tokens: int
    heads: int
    warps: int


class Share(NamedTuple):
    """The size of a program before the width of a row is known: heads, warps, and the bytes that a thread moves of each of the two
    channels of its planes."""

    heads: int
    warps: int
    bytes: int


# Measured on an H100, 43 tiles of bfloat16 and float32 heads of 128 channels (benchmarks/results/gpu_tiles.md).
# LARGE: for work that gives every multiprocessor a program; within 1 % of the fastest tile at 4,096 tokens and more in bfloat16, within
# 4 % in float32. SMALL: for less work, where the time is the latency of one program; more threads with half an access each are 8 to
# 10 % faster at one token.
LARGE = Share(heads=2, warps=4, bytes=ACCESS)
SMALL = Share(heads=1, warps=4, bytes=ACCESS // 2)
# Accesses per thread before the first store, 4 registers each: with more, few programs fit on a multiprocessor.
_STAGED = 20


def tile_of(dim: int, tail: int, size: int, share: Share) -> Tile:
    """The tile that gives each thread its bytes of each of the two channels of its planes; fewer heads, then fewer tokens, where a long
    tail would need too many registers. dim, tail: channels rotated and copied. size: bytes of a channel.
    """
    heads = share.heads
    row = 32 * share.warps * ACCESS // size  # channels that all threads can move at once

    def width(channels: int) -> int:
        return 1 << max(channels - 1, 0).bit_length()

    tokens = min(max(row * share.bytes // ACCESS // width(max(dim, tail if not dim else 0) // 2), 1), 128)

    def staged() -> float:
        return heads * tokens * (2 * width(dim // 2) + (width(tail) if tail else 0)) / row

    while staged() > _STAGED and heads > 1:
        heads //= 2
    while staged() > _STAGED and tokens > 1:
        tokens //= 2
    return Tile(tokens, heads, share.warps)
