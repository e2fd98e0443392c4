"""Context-extension schemes: frequencies in, frequencies and an attention factor out, as small values."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Scheme(Protocol):
    """A map of the spectrum: pure, in float64, on any device.

    scheme(inv_freq, *, base, dim, length=None) -> (inv_freq, attention_factor)
        inv_freq: (dim/2,) [rad/token] float64, or (batch, dim/2) where an earlier scheme made it so. length [token]: the whole context,
        int or (batch,) integer tensor, None for the trained window. A scheme that depends on a (batch,) length returns (batch, dim/2)
        and a factor (batch,).
    scheme.window: the trained window [token] of a scheme that depends on the length, else None.
    scheme.in_float32: the same map in the float32 arithmetic of transformers, operation for operation.
    """

    @property
    def window(self) -> int | None: ...

    def __call__(
        self, inv_freq: Tensor, *, base: float, dim: int, length: int | Tensor | None = None
    ) -> tuple[Tensor, float | Tensor]: ...

    def in_float32(
        self, inv_freq: Tensor, *, base: float, dim: int, length: int | Tensor | None = None
    ) -> tuple[Tensor, float | Tensor]: ...
