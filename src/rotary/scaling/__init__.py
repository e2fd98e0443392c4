"""Context-extension schemes: frequencies in, frequencies and an attention factor out, as small values.

Each is a frozen dataclass whose fields carry the key names of config files, checked when it is made. They chain, left to right:
RotaryEmbedding(128, scaling=(YaRN(4.0, 32768), Resonance())). Adding one takes ten lines; see Scheme.
"""

from .longrope import LongRoPE
from .parts import Llama3, NTKByParts, YaRN
from .planes import Clipped, Gains, Power, Proportional, Resonance, Truncated
from .scheme import Scheme
from .stretch import NTK, DynamicNTK, Linear, NTKMixed

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
