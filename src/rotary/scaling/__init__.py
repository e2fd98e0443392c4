"""Context-extension schemes: frequencies in, frequencies and an attention factor out, as small values.

Each is a frozen dataclass whose fields have the names of config keys and are checked when it is made. They chain, left to right:
RotaryEmbedding(128, scaling=(YaRN(4.0, 32768), Resonance())). A new one takes ten lines; see Scheme.
"""

from .by_parts import Llama3, NTKByParts, YaRN
from .interpolation import NTK, DynamicNTK, Linear, NTKMixed
from .longrope import LongRoPE
from .per_plane import Clipped, Gains, Power, Proportional, Resonance, Truncated
from .scheme import Scheme

__all__ = [
    "NTK",
    "Clipped",
    "DynamicNTK",
    "Gains",
    "Linear",
    "Llama3",
    "LongRoPE",
    "NTKByParts",
    "NTKMixed",
    "Power",
    "Proportional",
    "Resonance",
    "Scheme",
    "Truncated",
    "YaRN",
]
