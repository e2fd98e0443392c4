"""Tensors made from Python numbers, once per device, outside every module's state.

A buffer can be cast, emptied, overwritten or left on the meta device, and then gives wrong results without an error. Python numbers
cannot: they are the source of truth, and the tensors are a per-device cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._torch import has_float64, plain_torch, tracing


class Constants:
    """Numbers, and the tensors made from them.

    Immutable: a copy is the object itself, a pickle has the numbers alone. Where threads race to make one tensor, all use the first.
    """

    __slots__ = ("_tensors", "dtype", "values")

    def __init__(self, values: Sequence[Any], dtype: torch.dtype) -> None:
        self.values: Sequence[Any] = values
        self.dtype: torch.dtype = dtype
        self._tensors: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device, *, traced: bool | None = None) -> Tensor:
        """The tensor on that device; float32 in place of float64 on a device without float64.

        traced: the answer of tracing(), if the caller has it. A traced tensor is made anew and not cached.
        """
        if tracing() if traced is None else traced:
            return self._make(device)
        tensor = self._tensors.get(device)
        if tensor is None:
            with plain_torch():
                tensor = self._tensors.setdefault(device, self._make(device))
        return tensor

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
