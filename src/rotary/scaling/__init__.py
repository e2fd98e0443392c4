"""Context-extension schemes: frequencies in, frequencies and an attention factor out, as small values.

Each is a frozen dataclass whose fields have the names of config keys and are checked when it is made. They chain, left to right:
RotaryEmbedding(128, scaling=(YaRN(4.0, 32768), Resonance())). A new one takes six lines, in any code: Scheme (scheme.py) shows them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .scheme import Scheme

if TYPE_CHECKING:
    from .by_parts import Llama3, NTKByParts, YaRN
    from .interpolation import NTK, DynamicNTK, Linear, NTKMixed
    from .longrope import LongRoPE
    from .per_plane import Clipped, Gains, Power, Proportional, Resonance, Truncated

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

# A scheme of the library is also named in config/schemes.py (keys of configs), in the schemes of the command line (cli/), in
# analysis/diagnosis.py (warnings), docs/schemes.md and docs/reference/scaling.md.
# Each scheme is imported when it is first used: dataclasses are made by exec, and these were a fifth of `import rotary` (13 of 68 ms).
_FILES = {
    "by_parts": ("Llama3", "NTKByParts", "YaRN"),
    "interpolation": ("NTK", "DynamicNTK", "Linear", "NTKMixed"),
    "longrope": ("LongRoPE",),
    "per_plane": ("Clipped", "Gains", "Power", "Proportional", "Resonance", "Truncated"),
    "temperature": (),
}


def __getattr__(name: str) -> Any:
    for file, schemes in _FILES.items():
        if name == file or name in schemes:
            module = importlib.import_module(f".{file}", __name__)
            return module if name == file else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_FILES, *(name for name in globals() if name.startswith("__"))])
