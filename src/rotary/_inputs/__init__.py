"""Everything a call gives, checked and resolved before anything is computed. One function per public entry.

Here are those of calls.py; moved.py (rerotate), fused.py, and parts.py (distributed tensors) are imported by the modules that need them."""

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

__all__ = [
    "Call",
    "for_cos_sin",
    "for_directions",
    "for_freqs",
    "for_operator",
    "for_pair",
    "for_rotate",
    "for_table",
    "last_rows",
]
