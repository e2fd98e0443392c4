"""The library's functions of Python: they take tensors as they are, read and make them in C, and return tensors (call.cpp, call_at.cpp).

The library makes them itself from CPython's stable ABI and is no extension module: one library, built without Python's headers, serves
every Python, and a call costs what that of any built-in function costs (docs/design/0011).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch.autograd import forward_ad

from .. import _torch
from . import library

THREADS_FAILED = "torch's thread pool reported an error in torch_parallel_for; the output is not complete"


class Functions(NamedTuple):
    """All but plan() return None, before anything is written, for what is not ordinary: see _rotation/call.py."""

    rotate: Callable[..., Any]
    """rotate(q, k or False for one tensor alone, cos, sin, key_cos or None, key_sin or None, seq_dim, interleaved, conjugate, in_place)"""
    plan: Callable[[bytes], Any]
    """What the next two take first, from the numbers of _angles/plan.py."""
    rotate_at: Callable[..., Any]
    """rotate_at(plan, q, k or None, offset, positions or None, cu_seqlens or None, length or None, role or None, seq_dim, interleaved,
    conjugate, in_place)"""
    tables_at: Callable[..., Any]
    """tables_at(plan, positions or how many, a tensor where the tables are wanted, dtype, role or None, length or None) -> (cos, sin)"""


@functools.cache
def load(question: Callable[[], Any]) -> Functions | str:
    """The functions, or the reason why there are none. question: asked beside torch's own; its answer is false where a call is ordinary."""
    loaded = library.load()
    if isinstance(loaded, str):
        return loaded
    api, questions = _torch.exchange_api(), _torch.questions()
    if api is None:
        return f"torch {torch.__version__} has no C exchange table of DLPack (2.10 and later have it)"
    if questions is None:
        return f"torch {torch.__version__} does not say what is on around a call"
    given = (  # in the order of keep_torch() in torch.cpp
        api,
        torch.Tensor,
        torch.empty_like,
        torch.empty,
        {"dtype": torch.float32, "device": "cpu"},
        {"dtype": torch.float64, "device": "cpu"},
        torch.is_grad_enabled,
        torch.Tensor.is_neg,
        torch.Tensor.is_inference,
        _torch.increment_versions,
        forward_ad,
        (*questions, question),
        threads_failed,
        None,
        True,
        False,
        int,
        "query",
        "key",
        torch.float32,
        torch.float64,
    )
    try:
        make = ctypes.PyDLL(str(library.LIBRARY)).rotary_functions
        make.restype, make.argtypes = ctypes.py_object, (ctypes.py_object,)
        made = make(given)
    except (OSError, AttributeError, ValueError) as error:
        return f"the functions of the native library cannot be made: {error}"
    return (
        f"torch {torch.__version__} has another version of DLPack's exchange table"
        if made is None
        else Functions(*made)
    )


def threads_failed() -> NoReturn:
    raise RuntimeError(THREADS_FAILED)
