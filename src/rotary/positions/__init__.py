"""Positions: of text, of grids of patches, and of both in one sequence. Integers until the last moment, or float64.

sequence, packed, padded                   one number per token (counted.py)
grid, merged, centres, prefixed, grids     rows, columns, frames (grids.py)
multimodal                                 text, images and video in one sequence (multimodal.py)
streaming, self_extend, context_shift,     where cached keys go: (old, new) for RotaryEmbedding.rerotate (moves.py)
kept, chunk, tree
of_rank                                    which tokens each of several processes has (ranks.py)
"""

from .counted import packed, padded, sequence
from .grids import centres, grid, grids, merged, prefixed
from .moves import chunk, context_shift, kept, self_extend, streaming, tree
from .multimodal import multimodal
from .ranks import of_rank

__all__ = [
    "centres",
    "chunk",
    "context_shift",
    "grid",
    "grids",
    "kept",
    "merged",
    "multimodal",
    "of_rank",
    "packed",
    "padded",
    "prefixed",
    "self_extend",
    "sequence",
    "streaming",
    "tree",
]
