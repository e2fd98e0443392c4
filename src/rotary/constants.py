"""Constants of a module: tensors made from Python numbers, once per device, and never part of anybody's state.

A buffer can be cast, emptied, overwritten or left on the meta device, and then answers wrongly in silence. Python numbers cannot;
so they are the source, and the tensors made from them are only a memory of the making.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportMissingModuleSource, reportUnknownVariableType]
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]


def tracing() -> bool:
    """Whether torch is recording, faking or transforming what runs now, so that a tensor made here may not be an ordinary one."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or transforming()
        or torch._C._is_tracing()
    )


@contextmanager
def plain_torch() -> Generator[None, None, None]:
    """Ordinary CPU tensors inside, whatever surrounds the call: fake tensors, a default device, inference mode, autocast."""
    with (
        _disable_current_modes(),
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        yield


class Constants:
    """Numbers, and the tensors made from them.

    Immutable: a copy is the object itself, a pickle holds the numbers alone. Threads may race to make the same tensor; the first
    one stays.
    """

    __slots__ = ("_made", "dtype", "values")

    def __init__(self, values: Sequence[Any], dtype: torch.dtype) -> None:
        self.values = values
        self.dtype = dtype
        self._made: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on that device; in float32 where it was to be float64 and the device has none."""
        if tracing():
            return self._make(device)
        made = self._made.get(device)
        if made is None:
            with plain_torch():
                made = self._made.setdefault(device, self._make(device))
        return made

    def _make(self, device: torch.device) -> Tensor:
        dtype = torch.float32 if self.dtype == torch.float64 and not has_float64(device) else self.dtype
        return torch.tensor(self.values, dtype=dtype, device=device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constants) and (self.values, self.dtype) == (other.values, other.dtype)

    def __hash__(self) -> int:
        return hash((Constants, self.dtype, len(self.values)))

    def __copy__(self) -> Constants:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Constants:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Constants, (self.values, self.dtype)

    def __repr__(self) -> str:
        return f"Constants({self.values!r}, {self.dtype})"


def transforming() -> bool:
    """Whether a functorch transform (grad, vmap, jvp, batched gradients) is under way."""
    return peek_interpreter_stack() is not None  # pyright: ignore[reportUnnecessaryComparison]


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64. MPS and some NPUs do not, and say so by raising."""
    return True if device.type in ("cpu", "cuda", "meta") else _makes_float64(device.type)


@functools.cache
def _makes_float64(device_type: str) -> bool:
    try:
        with plain_torch():
            torch.ones(1, dtype=torch.float64, device=device_type).cos()
    except (RuntimeError, TypeError):
        return False
    return True
