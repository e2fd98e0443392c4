"""Rotary position embeddings: exact at every position, forward and backward, for any model.

positions -> angles -> tables (cos, sin) -> rotate.
"""

from . import operators, pairing, positions, scaling
from .choice import backends, use_backend
from .embedding import RotaryEmbedding
from .functional import apply_rotary, apply_rotary_pos_emb, apply_rotary_qk
from .version import __version__

__all__ = [
    "RotaryEmbedding",
    "__version__",
    "apply_rotary",
    "apply_rotary_pos_emb",
    "apply_rotary_qk",
    "backends",
    "operators",
    "pairing",
    "positions",
    "scaling",
    "use_backend",
]
