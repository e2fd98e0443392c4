"""Which kernel rotates: the choice by device or by the caller, and why a kernel is unavailable.

Chosen by device: "triton" for CUDA tensors, "native" (a C++ loop) for CPU tensors, "eager" (plain torch operations) where the first
choice is unavailable or does not serve a layout. All agree in every bit on the CPU, so the choice is a matter of speed. Ordinary calls on a
CPU go to the native library before a backend is asked for (call.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from .. import _checks
from .._types import CosSin, Tensors
from . import eager

NAMES = ("eager", "native", "triton")
_FORMER_NAMES = {"cpu": "native"}  # goes in 0.4; "cpu" named the device, on which "eager" runs as well
_BY_DEVICE = {"cpu": "native", "cuda": "triton"}

_chosen: ContextVar[str | None] = ContextVar("rotary_backend", default=None)


class Kernel(Protocol):
    """The contract of this folder's kernels, as a type (see __init__.py)."""

    def unavailable(self) -> str | None: ...
    def rotate(
        self,
        xs: Tensors,
        outs: Tensors,
        tables: tuple[CosSin, ...],
        *,
        seq_dim: int,
        interleaved: bool,
        conjugate: bool,
    ) -> str | None: ...


_kernels: dict[str, Kernel] = {"eager": eager}


def kernel(name: str) -> Kernel:
    """The kernel of that name, imported at its first use: importing rotary imports no triton and loads no library."""
    loaded = _kernels.get(name)
    return _load(name) if loaded is None else loaded


def _load(name: str) -> Kernel:
    if name == "native":
        from . import native as module
    else:
        from . import triton as module
    _kernels[name] = module
    return module


def backends() -> dict[str, str]:
    """Each kernel's name and "available", or the reason why it is not.

    >>> backends()["eager"]
    'available'
    """
    return {name: kernel(name).unavailable() or "available" for name in NAMES}


@contextmanager
def use_backend(name: str) -> Generator[None, None, None]:
    """Rotate with this kernel and no other inside the context, backward passes of its forwards included. Exact tables of cos and sin
    follow where it serves them, and come from torch's operations elsewhere, with the same bits.

    A context variable: threads and tasks started elsewhere are not touched. Under torch.compile and functorch the plain formula
    runs whatever is chosen, since those must see operations.

    ValueError for an unknown name, TypeError for another type; RuntimeError, here, where the kernel is unavailable, and at the call,
    where it does not serve the tensors: an explicit choice never falls back.

    >>> with use_backend("eager"):
    ...     chosen()
    'eager'
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the name of a backend is one of {', '.join(NAMES)}, got {_checks.describe(name)}")
    if name in _FORMER_NAMES:
        warnings.warn(
            f"backend {name!r} is now {_FORMER_NAMES[name]!r}; the old name goes in 0.4",
            DeprecationWarning,
            stacklevel=3,
        )
        name = _FORMER_NAMES[name]
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(NAMES)}")
    reason = kernel(name).unavailable()
    if reason is not None:
        raise RuntimeError(f"backend {name!r} is unavailable: {reason}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


chosen: Callable[[], str | None] = _chosen.get
"""The backend selected by use_backend() here, or None."""


def run(
    name: str | None,
    xs: Tensors,
    outs: Tensors,
    tables: tuple[CosSin, ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> None:
    """Rotate with the kernel of that name, or, for None, with the best one that serves these tensors."""
    if name is None:
        best = _BY_DEVICE.get(xs[0].device.type)
        if best is not None and (first := kernel(best)).unavailable() is None:
            reason = first.rotate(xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
            if reason is None:
                return
        name = "eager"
    reason = kernel(name).rotate(xs, outs, tables, seq_dim=seq_dim, interleaved=interleaved, conjugate=conjugate)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} does not serve these tensors: {reason}")
