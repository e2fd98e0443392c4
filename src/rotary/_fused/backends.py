"""Which kernel of this room runs: the one that use_backend() chose (../_rotation/backends.py), or the best for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .._rotation.backends import chosen
from .._types import CosSin, Tensors
from . import eager
from .eager import Weights
from .work import Norm, Store

_BY_DEVICE = {"cpu": "native", "cuda": "triton"}


class Kernel(Protocol):
    """The contract of this folder's kernels, as a type (see __init__.py)."""

    def unavailable(self) -> str | None: ...
    def norm_rotate(
        self,
        xs: Tensors,
        outs: Tensors,
        weights: Weights,
        tables: tuple[CosSin, ...],
        norm: Norm,
        *,
        seq_dim: int,
        interleaved: bool,
    ) -> str | None: ...
    def norm_rotate_backward(
        self,
        grads: Tensors,
        xs: Tensors,
        grad_xs: Tensors,
        grad_weights: Weights,
        weights: Weights,
        tables: tuple[CosSin, ...],
        norm: Norm,
        *,
        seq_dim: int,
        interleaved: bool,
    ) -> str | None: ...
    def rotate_and_store(
        self,
        xs: Tensors,
        outs: Tensors,
        weights: Weights,
        tables: tuple[CosSin, ...],
        norm: Norm | None,
        store: Store,
        *,
        seq_dim: int,
        interleaved: bool,
    ) -> str | None: ...


_kernels: dict[str, Kernel] = {"eager": eager}


def kernel(name: str) -> Kernel:
    """The kernel of that name, one of those that use_backend() knows, imported at its first use."""
    if name not in _kernels:
        _kernels[name] = _load(name)
    return _kernels[name]


def _load(name: str) -> Kernel:
    if name == "native":
        from . import native

        return native
    from . import triton

    return triton


def run(name: str | None, device: str, call: Callable[[Kernel], str | None]) -> None:
    """Call the kernel of that name, or, for None, the best one that serves these tensors. RuntimeError if a named kernel does not."""
    if name is None:
        first = kernel(_BY_DEVICE.get(device, "eager"))
        if first.unavailable() is None and call(first) is None:
            return
        name = "eager"
    reason = call(kernel(name))
    if reason is not None:
        raise RuntimeError(f"backend {name!r} does not serve these tensors: {reason}")


__all__ = ["Kernel", "chosen", "kernel", "run"]
