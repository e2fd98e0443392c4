"""A whole call in one crossing into C: tensors are read, checked, made and rotated there, 3 us where Python takes 11 (docs/design/0011).

Ordinary is a call that no rule but the formula's concerns:

    tensors     torch.Tensor itself, strided, on the CPU, at most 16 dimensions, no negative bit; float32, float64, bfloat16 or float16,
                tables in the dtype of the arithmetic; none that requires a gradient while gradients are recorded
    around      no functorch transform, forward mode, dispatch or function mode, trace or compiler; no use_backend()
    arguments   shapes that fit; True, False and int themselves; positions int64 or int; no cu_seqlens, no length that matters; within the
                window of a scheme and the reach of xPos; in place: no memory written twice

For all else the functions here return None, before anything is written, and the caller goes the way of every other call: it raises
what there is to raise, or rotates what there is to rotate. So no error, no message and no bit depends on whether a call is ordinary.
The compiler cannot see into them: callers ask torch.compiler.is_compiling() first, whose answer it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._native import functions
from . import backends


def unavailable() -> str | None:
    """The reason why no call goes whole into C, or None."""
    loaded = functions.load(backends.chosen)
    return loaded if isinstance(loaded, str) else None


def load() -> None:
    """Put the library's functions, or one that declines, in place of those below. Threads may race here: each comes to the same end."""
    global rotate, plan, rotate_at, tables_at
    loaded = functions.load(backends.chosen)
    rotate, plan, rotate_at, tables_at = (declined,) * 4 if isinstance(loaded, str) else loaded


def declined(*arguments: Any) -> None:
    """What every function here is where the library's are not to be had."""


def _rotate(*arguments: Any) -> Any:
    load()
    return rotate(*arguments)


def _plan(numbers: bytes) -> Any:
    load()
    return plan(numbers)


# What the first call finds, so that importing rotary loads no library. The arguments are in _native/functions.py.
rotate: Callable[..., Any] = _rotate
plan: Callable[[bytes], Any] = _plan
rotate_at: Callable[..., Any] = declined  # wants a plan, which loads it
tables_at: Callable[..., Any] = declined
