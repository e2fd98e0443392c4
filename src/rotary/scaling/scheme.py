"""What a scheme is, and the few checks and tensors that schemes share."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..arguments import number

Length = int | Tensor | None
Frequencies = tuple[Tensor, float | Tensor]


class Scheme(Protocol):
    """A map of the spectrum: pure, made of plain torch operations, on any device.

    scheme(inv_freq, *, base, dim, length=None) -> (inv_freq, attention_factor)
        inv_freq: (dim/2,) [rad/token] float64, or (batch, dim/2) where an earlier scheme made it so; returned in its own dtype.
        base, dim: of the geometric progression base^(-2i/dim) that the first scheme of a chain receives.
        length: tokens of the whole context, int or integer tensor, 0-d or (batch,); None for the trained window. Only a scheme that
            depends on it looks, never through the host, and answers a (batch,) length with (batch, dim/2).
        attention_factor: multiplies cos and sin, of queries and keys alike; a float or (batch,).
    scheme.window: the trained window [token] of a scheme that depends on the length, else None.
    scheme.in_float32: the same map in float32; where transformers has the scheme, in its operations and their order, bit for bit.

    A class that names this one as its base inherits `window` (None) and `in_float32` (the same formula on float32 frequencies).
    """

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies: ...

    @property
    def window(self) -> int | None:
        return None

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return self(inv_freq, base=base, dim=dim, length=length)


def check_factor(value: Any) -> None:
    """A scaling factor: a finite number > 0; below 1 it shortens the context, which is legal and hardly ever meant."""
    if number("factor", value) < 1.0:
        warnings.warn(f"factor {value} is below 1: it shortens the context", stacklevel=4)


def check_window(value: Any) -> None:
    """original_max_position_embeddings: a whole number of tokens, at least 1."""
    if isinstance(value, bool):
        raise TypeError(f"original_max_position_embeddings must be an integer, got {value!r}")
    try:
        tokens = operator.index(value)
    except TypeError:
        raise TypeError(f"original_max_position_embeddings must be an integer, got {value!r}") from None
    if tokens < 1:
        raise ValueError(f"original_max_position_embeddings must be >= 1, got {tokens}")


def numbers(name: str, values: Any, *, at_least: float | None = None) -> tuple[float, ...]:
    """A list of finite numbers, one per plane, each positive or at least so much."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list of numbers, one per plane, got {values!r}")
    found = cast("Sequence[Any]", values)
    return tuple(number(f"{name}[{i}]", value, at_least=at_least) for i, value in enumerate(found))


def check_planes(name: str, values: Any, dim: int) -> None:
    """One value for each of the dim/2 planes, known only where the scheme meets a module."""
    if len(values) != dim // 2:
        raise ValueError(f"{name} needs {dim // 2} values, one per plane (dim/2 with dim {dim}), got {len(values)}")


def check_ntk(name: str, dim: int) -> None:
    if dim < 4:
        raise ValueError(f"{name} scaling needs dim >= 4, got {dim}: one plane has no longest wavelength to stretch")


def planes(inv_freq: Tensor) -> Tensor:
    """The index of each plane, 0 .. dim/2 - 1, in the dtype and on the device of inv_freq."""
    return torch.arange(inv_freq.shape[-1], dtype=inv_freq.dtype, device=inv_freq.device)


def powers(base: float | Tensor, dim: int, device: torch.device) -> Tensor:
    """base^(2i/dim) (dim/2,) in float32, as transformers computes it: the inverse of its frequencies."""
    return base ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)


def first_in_chain(inv_freq: Tensor, theirs: Tensor, otherwise: Tensor, base: float, dim: int) -> Tensor:
    """Plane by plane: `theirs` where inv_freq still is transformers' own base^(-2i/dim), else what follows from inv_freq.

    transformers does not chain: it starts from the base. Whether a scheme comes first is thus seen in the frequencies, without a
    flag and without asking the device.
    """
    return torch.where(inv_freq == 1.0 / powers(base, dim, inv_freq.device), theirs, otherwise)
