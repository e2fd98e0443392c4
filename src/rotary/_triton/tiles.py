"""How much one program of a GPU kernel does: rows of a tile, heads, warps; from sizes alone, never from a measurement at run time."""

from __future__ import annotations

from typing import NamedTuple

from .launch import ACCESS


class Tile(NamedTuple):
    """What one program does: so many heads of so many tokens, with so many warps."""

    tokens: int
    heads: int
    warps: int


# Work that fills the chip: four heads share one reading of the tables and are loaded before anything is stored, 128 bytes in flight
# per thread. Work that does not: the smallest programs, so that every multiprocessor takes part.
LARGE = {"heads": 4, "warps": 4}
SMALL = {"heads": 1, "warps": 1}
# Accesses per thread before the first store, 4 registers each: with more, few programs fit on a multiprocessor.
_STAGED = 20


def tile_of(dim: int, tail: int, size: int, *, heads: int, warps: int) -> Tile:
    """As many tokens as give each thread one access to each of the two channels of its planes; fewer heads, then fewer tokens, where
    a long tail would need too many registers. dim, tail: channels turned and copied. size: bytes of a channel.
    """
    row = 32 * warps * ACCESS // size  # channels that all threads move at once

    def width(channels: int) -> int:
        return 1 << max(channels - 1, 0).bit_length()

    tokens = min(max(row // width(max(dim, tail if not dim else 0) // 2), 1), 128)

    def staged() -> float:
        return heads * tokens * (2 * width(dim // 2) + (width(tail) if tail else 0)) / row

    while staged() > _STAGED and heads > 1:
        heads //= 2
    while staged() > _STAGED and tokens > 1:
        tokens //= 2
    return Tile(tokens, heads, warps)
