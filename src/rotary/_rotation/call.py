"""A whole call in one crossing into C: tensors are read, checked, made and rotated there, 2 us where Python takes 11 (docs/design/0011).

Ordinary is a call that no rule but the formula's concerns:

    tensors     torch.Tensor itself, strided, on the CPU, at most 16 dimensions, no negative bit; float32, float64, bfloat16 or float16,
                tables in the dtype of the arithmetic; none that requires a gradient while gradients are recorded
    around      no functorch transform, forward mode, dispatch or function mode, trace or compiler; no use_backend()
    arguments   shapes that fit; True, False and int themselves; in place: no memory written twice

For all else the functions here return None, before anything is written, and the caller goes the way of every other call: it raises
what there is to raise, or rotates what there is to rotate. So no error, no message and no bit depends on whether a call is ordinary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._native import functions
from . import backends


def unavailable() -> str | None:
    """The reason why no call goes whole into C, or None."""
    loaded = functions.load((backends.chosen,))
    return loaded if isinstance(loaded, str) else None


def _first(*arguments: Any) -> Any:
    """What the first call finds: it loads the library, and puts the library's function, or one that declines, in its own place."""
    global rotate
    loaded = functions.load((backends.chosen,))
    rotate = declined if isinstance(loaded, str) else loaded.rotate
    return rotate(*arguments)


def declined(*arguments: Any) -> None:
    return None


rotate: Callable[..., Any] = _first
"""rotate(q, k or None, cos, sin, key_cos or None, key_sin or None, seq_dim, interleaved, conjugate, in_place) -> the rotated tensor, the
tuple of two, or None where the call is not ordinary."""
