"""Which kernel rotates: the choice, and why one is off.

Chosen by device: "triton" for CUDA tensors, "cpu" (the native loop) for CPU tensors, "eager" (plain torch operations) where the
first choice is unavailable or does not serve a layout. All agree in every bit on the CPU, so the choice is a matter of speed.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol, cast

from torch import Tensor

from .kernels import CHOSEN, eager

NAMES = ("eager", "cpu", "triton")
_BY_DEVICE = {"cpu": "cpu", "cuda": "triton"}
Table = tuple[Tensor, Tensor]


class Kernel(Protocol):
    """The contract of rotary.kernels, as a type."""

    def unavailable(self) -> str | None: ...
    def rotate(
        self,
        xs: tuple[Tensor, ...],
        outs: tuple[Tensor, ...],
        tables: tuple[Table, ...],
        *,
        seq_dim: int,
        interleaved: bool,
        conjugate: bool,
    ) -> str | None: ...


_kernels: dict[str, Kernel] = {"eager": cast(Kernel, eager)}


def kernel(name: str) -> Kernel:
    """The kernel of that name, imported at its first use: importing rotary imports no triton."""
    found = _kernels.get(name)
    if found is None:
        found = _kernels[name] = cast(Kernel, importlib.import_module(f"{__package__}.kernels.{name}"))
    return found


def backends() -> dict[str, str]:
    """Each kernel's name and "available", or the reason why it is not.

    >>> backends()["eager"]
    'available'
    """
    return {name: kernel(name).unavailable() or "available" for name in NAMES}


@contextmanager
def use_backend(name: str) -> Generator[None, None, None]:
    """Rotate with this kernel and no other inside the context, backward passes of its forwards included; where "triton" is not the
    one, tables are made by torch's operations on a GPU too.

    A context variable: threads and tasks started elsewhere are not touched. Under torch.compile and functorch the plain formula
    runs whatever is chosen, since those need operations to look into.

    ValueError for an unknown name; RuntimeError, here, where the kernel is unavailable, and at the call, where it does not serve
    the tensors: an explicit choice never falls back.

    >>> with use_backend("eager"):
    ...     chosen()
    'eager'
    """
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(NAMES)}")
    reason = kernel(name).unavailable()
    if reason is not None:
        raise RuntimeError(f"backend {name!r} is unavailable: {reason}")
    token = CHOSEN.set(name)
    try:
        yield
    finally:
        CHOSEN.reset(token)


def chosen() -> str | None:
    """The name given to use_backend here, or None."""
    return CHOSEN.get()


def run(
    name: str | None,
    xs: tuple[Tensor, ...],
    outs: tuple[Tensor, ...],
    tables: tuple[Table, ...],
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
