"""Everything a call gives, checked and resolved before anything is computed. One function per public entry, in calls.py, moved.py and
fused.py."""

from .calls import (
    Call,
    for_cos_sin,
    for_directions,
    for_freqs,
    for_operator,
    for_pair,
    for_rotate,
    for_table,
    last_rows,
)
from .fused import for_norm, for_norm_operator, for_store
from .moved import Move, Side, for_rerotate, for_rerotation

__all__ = [
    "Call",
    "Move",
    "Side",
    "for_cos_sin",
    "for_directions",
    "for_freqs",
    "for_norm",
    "for_norm_operator",
    "for_operator",
    "for_pair",
    "for_rerotate",
    "for_rerotation",
    "for_rotate",
    "for_store",
    "for_table",
    "last_rows",
]
