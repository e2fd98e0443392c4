"""The Python functions of the native library: they take tensors, read and make tensors in C, and return tensors (call.cpp, call_at.cpp).

The library makes them by CPython's stable ABI and is no extension module. So one library, built without Python's headers, serves every
Python, and a call costs as much as that of any built-in function (docs/design/0011).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch.autograd import forward_ad

from .. import _torch
from . import library

THREADS_FAILED = "torch's thread pool reported an error in torch_parallel_for; the output is not complete"


class Functions(NamedTuple):
    """All but plan() return None, before anything is written, for a call that is not ordinary: see _rotation/call.py."""

    rotate: Callable[..., Any]
    """rotate(q, k, cos, sin, key_cos or None, key_sin or None, seq_dim, interleaved, conjugate, in_place), and for one tensor alone
    rotate(x, cos, sin, seq_dim, interleaved, conjugate, in_place)"""
    plan: Callable[[bytes], Any]
    """plan(numbers of _angles/plan.py) -> the object that the next two take first, or None where the numbers are no plan"""
    rotate_at: Callable[..., Any]
    """rotate_at(plan, q, k or None, offset, positions or None, cu_seqlens or None, length or None, role or None, seq_dim, interleaved,
    conjugate, in_place)"""
    tables_at: Callable[..., Any]
    """tables_at(plan, positions or their number, a tensor on the device of the tables, dtype, role or None, length or None) -> cos, sin"""


@functools.cache
def load(question: Callable[[], Any]) -> Functions | str:
    """The functions, or the reason why there are none. question: a function that C calls as well as torch's questions; if its answer is
    true, a call is not ordinary."""
    loaded = library.load()
    if isinstance(loaded, str):
        return loaded
    api, questions = _torch.exchange_api(), _torch.questions()
    if api is None:
        return f"torch {torch.__version__} has no C exchange table of DLPack (2.10 and later have it)"
    if questions is None:
        return f"torch {torch.__version__} does not tell which modes and transforms are active"
    # The private name of the level of forward-mode differentiation is in the list of _torch.py alone.
    (level,) = [name for name in _torch.PRIVATE if name.startswith(f"{forward_ad.__name__}.")]
    torch_objects = (  # in the order of keep_torch() in torch.cpp
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
        sys.intern(level.rpartition(".")[2]),
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
        functions = make(torch_objects)
    except (OSError, AttributeError, ValueError) as error:
        return f"the functions of the native library cannot be made: {error}"
    if functions is None:
        return f"torch {torch.__version__} has another version of DLPack's exchange table"
    return Functions(*functions)


def threads_failed() -> NoReturn:
    raise RuntimeError(THREADS_FAILED)
