"""Everything a call gives, checked and resolved before anything is computed. One function per public entry, in calls.py."""

from .calls import Call, for_cos_sin, for_freqs, for_operator, for_pair, for_rotate, for_table, last_rows

__all__ = ["Call", "for_cos_sin", "for_freqs", "for_operator", "for_pair", "for_rotate", "for_table", "last_rows"]
