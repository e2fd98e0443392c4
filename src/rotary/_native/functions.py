"""The library's functions of Python: those that take tensors as they are, read them in C, and return tensors (call.cpp).

They are built by the library itself, from CPython's stable ABI, and are no extension module: one library without Python's headers serves
every Python, and a call costs what a call of any built-in function costs (docs/design/0011).
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
    rotate: Callable[..., Any]
    """rotate(q, k | None, cos, sin, key_cos | None, key_sin | None, seq_dim, interleaved, conjugate, in_place): the rotated tensor, the
    tuple of two, or None, before anything is written, for what is not ordinary: see _rotation/call.py."""


@functools.cache
def load(questions: tuple[Callable[[], Any], ...]) -> Functions | str:
    """The functions, or the reason why there are none. questions: what else has to answer false before a call, beside torch's own."""
    loaded = library.load()
    if isinstance(loaded, str):
        return loaded
    api, asked = _torch.exchange_api(), _torch.questions()
    if api is None:
        return f"torch {torch.__version__} has no exchange table of DLPack (2.10 and later have it)"
    if asked is None:
        return f"torch {torch.__version__} cannot be asked what is on around a call"
    answers = (  # as torch.cpp reads them
        api,
        torch.Tensor,
        torch.empty_like,
        torch.is_grad_enabled,
        torch.Tensor.is_neg,
        torch.Tensor.is_inference,
        _torch.increment_versions,
        forward_ad,
        (*asked, *questions),
        None,
        True,
        False,
        int,
        threads_failed,
    )
    try:
        make = ctypes.PyDLL(str(library.LIBRARY)).rotary_functions
        make.restype, make.argtypes = ctypes.py_object, (ctypes.py_object,)
        return Functions(*make(answers))
    except (OSError, AttributeError, ValueError) as error:
        return f"the functions of the native library cannot be made: {error}"


def threads_failed() -> NoReturn:
    raise RuntimeError(THREADS_FAILED)
