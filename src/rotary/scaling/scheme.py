"""Scheme: the interface of a scheme, and the checks and tensors that schemes share."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from .._checks import describe, index, number
from .._types import Frequencies, Length


class Scheme(Protocol):
    """A map of the spectrum: pure, made of plain torch operations, on any device.

    scheme(inv_freq, *, base, dim, length=None) -> (inv_freq, attention_factor)
        inv_freq: (dim/2,) [rad/token] float64, or (batch, dim/2) where an earlier scheme made it so; returned in its own dtype.
        base, dim: of the geometric progression base^(-2i/dim) that the first scheme of a chain receives.
        length: tokens of the whole context, int or integer tensor, 0-d or (batch,); None for the trained window. Only a scheme that
            depends on it reads it, never through the host, and answers a (batch,) length with (batch, dim/2).
        attention_factor: multiplies cos and sin, of queries and keys alike; a float or (batch,).
    scheme.window: the trained window [token] of a scheme that depends on the length, else None.
    scheme.in_float32: the same map in float32, for angles="float32": called for the first scheme of a chain, whose inv_freq is the
        progression itself. Where transformers has the scheme, in its operations and their order, bit for bit.

    A class that names this one as its base inherits `window` (None), `in_float32` (the same formula on float32 frequencies) and a
    repr without the fields that have their default values:

    >>> @dataclasses.dataclass(frozen=True)
    ... class Slower(Scheme):
    ...     factor: float
    ...
    ...     def __call__(self, inv_freq, *, base, dim, length=None):
    ...         return inv_freq / self.factor, 1.0
    >>> from rotary import RotaryEmbedding
    >>> RotaryEmbedding(8, scaling=Slower(2.0)).inv_freq
    tensor([0.5000, 0.0500, 0.0050, 0.0005])
    """

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies: ...

    @property
    def window(self) -> int | None:
        return None

    def in_float32(self, inv_freq: Tensor, *, base: float, dim: int, length: Length = None) -> Frequencies:
        return self(inv_freq, base=base, dim=dim, length=length)

    def __repr__(self) -> str:
        return described(self, repr)


def described(scheme: Any, value: Callable[[Any], str]) -> str:
    """The scheme by name, with the fields that differ from their defaults, each shown by value()."""
    fields = dataclasses.fields(scheme) if dataclasses.is_dataclass(scheme) else ()
    shown = [
        f"{field.name}={value(getattr(scheme, field.name))}"
        for field in fields
        if field.repr and field.init and getattr(scheme, field.name) != field.default
    ]
    return f"{type(scheme).__name__}({', '.join(shown)})"


def as_schemes(scaling: Any) -> tuple[Scheme, ...]:
    """One scheme, several, or none, as a tuple. TypeError for anything else, with what to write instead."""
    schemes = () if scaling is None else tuple(scaling) if isinstance(scaling, (tuple, list)) else (scaling,)
    for scheme in cast("tuple[Any, ...]", schemes):
        if isinstance(scheme, type) or not callable(scheme) or not hasattr(scheme, "window"):
            remedy = ""
            if isinstance(scheme, dict):
                remedy = "; for the rope_scaling of a config use RotaryEmbedding.from_config(config)"
            elif isinstance(scheme, str):
                remedy = "; a scheme is a value with its parameters, as in scaling=YaRN(4.0, original_max_position_embeddings=32768)"
            elif isinstance(scheme, type):
                remedy = "; give an instance with its parameters, not the class"
            raise TypeError(
                f"scaling must be a scheme of rotary.scaling or a tuple of them, got {describe(scheme)}{remedy}"
            )
    return cast("tuple[Scheme, ...]", schemes)


def check_factor(value: Any) -> None:
    """TypeError or ValueError unless this is a finite number > 0; a warning below 1, which shortens the context and is rarely meant."""
    if number("factor", value) < 1.0:
        warnings.warn(f"factor {value} is below 1: it shortens the context", stacklevel=4)


def check_window(value: Any) -> None:
    """TypeError or ValueError unless this is a whole number of tokens, at least 1: original_max_position_embeddings."""
    tokens = index("original_max_position_embeddings", value)
    if tokens < 1:
        raise ValueError(f"original_max_position_embeddings must be >= 1, got {tokens}")


def number_list(name: str, values: Any, *, at_least: float | None = None) -> tuple[float, ...]:
    """A list of finite numbers, one per plane, each positive or, where at_least is given, at least that."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list of numbers, one per plane, got {describe(values)}")
    sequence = cast("Sequence[Any]", values)
    return tuple(number(f"{name}[{i}]", value, at_least=at_least) for i, value in enumerate(sequence))


def check_planes(name: str, values: Any, dim: int) -> None:
    """ValueError unless there is one value per plane. A scheme gets dim only when a module calls it."""
    if len(values) != dim // 2:
        raise ValueError(f"{name} needs {dim // 2} values, one per plane (dim/2 with dim {dim}), got {len(values)}")


def check_ntk(name: str, dim: int) -> None:
    """ValueError for dim 2: the exponent dim / (dim - 2) has no value there."""
    if dim < 4:
        raise ValueError(f"{name} scaling needs dim >= 4, got {dim}: one plane has no longest wavelength to stretch")


def plane_indices(inv_freq: Tensor) -> Tensor:
    """The index of each plane, 0 .. dim/2 - 1, in the dtype and on the device of inv_freq."""
    return torch.arange(inv_freq.shape[-1], dtype=inv_freq.dtype, device=inv_freq.device)


def powers(base: float | Tensor, dim: int, device: torch.device) -> Tensor:
    """base^(2i/dim) (dim/2,) in float32, as transformers computes it: the inverse of its frequencies."""
    return base ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
