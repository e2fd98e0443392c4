"""The arguments of every public call, checked and resolved before anything is computed. One function per public entry.

This module exports the functions of calls.py. Callers import moved.py (rerotate), fused.py, parts.py (distributed tensors) and
words.py (words of other libraries) directly.
"""

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
from .shapes import check_flags

__all__ = [
    "Call",
    "check_flags",
    "for_cos_sin",
    "for_directions",
    "for_freqs",
    "for_operator",
    "for_pair",
    "for_rotate",
    "for_table",
    "last_rows",
]
