"""An ordinary call, whole, in one crossing into C: tensors are read, checked, made and rotated there, in 3 us; Python takes 11
(docs/design/0011).

A call is ordinary if all of this holds:

    tensors     class torch.Tensor, strided, on the CPU, at most 16 dimensions, no negative bit; float32, float64, bfloat16 or float16,
                tables in the dtype of the arithmetic; none requires a gradient while gradients are recorded
    context     no functorch transform, forward mode, dispatch or function mode, trace or compiler; no use_backend()
    arguments   shapes that fit; flags of class bool, numbers of class int; positions int64 or int; no cu_seqlens, no length that a scheme
                reads; positions within the window of a scheme and the reach of xPos; in place: no memory written twice

    ordinary      C checks, computes, returns tensors
    any other     C returns None, having written nothing; the caller takes the Python road, which raises the error or rotates

So no error, no message and no bit depends on whether a call is ordinary. torch.compile cannot trace these functions: callers ask
torch.compiler.is_compiling() first, which it resolves itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._native import functions
from . import backends


def unavailable() -> str | None:
    """The reason why every call takes the Python road, or None."""
    loaded = functions.load(backends.chosen)
    return loaded if isinstance(loaded, str) else None


def load() -> None:
    """Replace the functions below by the library's, or by declined(). Threads may race here: all store the same values."""
    global rotate, plan, rotate_at, tables_at
    loaded = functions.load(backends.chosen)
    rotate, plan, rotate_at, tables_at = (declined,) * 4 if isinstance(loaded, str) else loaded


def declined(*arguments: Any) -> None:
    """None: the function in the place of each of the library's where it has none."""


def _rotate(*arguments: Any) -> Any:
    load()
    return rotate(*arguments)


def _plan(numbers: bytes) -> Any:
    load()
    return plan(numbers)


# The first call loads the library: importing rotary loads none. _native/functions.py describes the arguments.
rotate: Callable[..., Any] = _rotate
plan: Callable[[bytes], Any] = _plan
rotate_at: Callable[..., Any] = declined  # takes a plan, and plan() loads the library
tables_at: Callable[..., Any] = declined
