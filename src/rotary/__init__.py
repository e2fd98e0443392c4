"""Rotary position embeddings: exact at every position, forward and backward, for any model.

    positions -> angles -> tables (cos, sin) -> rotate

Public are the names below, and those that the documentation names in rotary.analysis, checkpoints, config, fused, onnx, tables,
testing and transformers, which are imported when they are first used. Names with an underscore may change in any release.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import axes, operators, pairing, positions, scaling
from ._rotation.backends import backends, use_backend
from ._version import __version__
from .embedding import RotaryEmbedding
from .functional import apply_rotary, apply_rotary_pos_emb, apply_rotary_qk, cos_sin_of

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import checkpoints as checkpoints
    from . import config as config
    from . import fused as fused
    from . import onnx as onnx
    from . import tables as tables
    from . import testing as testing
    from . import transformers as transformers

__all__ = [
    "RotaryEmbedding",
    "__version__",
    "apply_rotary",
    "apply_rotary_pos_emb",
    "apply_rotary_qk",
    "axes",
    "backends",
    "cos_sin_of",
    "operators",
    "pairing",
    "positions",
    "scaling",
    "use_backend",
]

_LATE = ("analysis", "checkpoints", "config", "fused", "onnx", "tables", "testing", "transformers")


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LATE, *(name for name in globals() if name.startswith("__"))])
