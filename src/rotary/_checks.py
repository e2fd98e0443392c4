"""Checks of single values: each returns the value to use, or raises an error that names the argument, the value that came, and the fix."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")

WIDEST = 2**16
"""The most channels of a head that are accepted, far more than any model has: a wrong head_dim in a config must not fill the memory."""


def describe(value: Any) -> str:
    """A value as error messages show it: tensors by type, dtype and shape, modules by type, other values by repr if that is short.

    >>> describe(torch.zeros(2, 8, 10, 64)), describe("half"), describe([0] * 1000)
    ('Tensor float32 (2, 8, 10, 64)', "str 'half'", 'list of 1000')
    """
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"{kind} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype"):
        return f"{kind} {value.dtype} {tuple(value.shape)}"
    if isinstance(value, torch.nn.Module):
        return kind
    if isinstance(value, int) and value.bit_length() > 256:
        return f"{kind} of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # an integer in a list, longer than Python prints
        text = "\n"
    if len(text) <= 80 and "\n" not in text:
        return f"{kind} {text}" if isinstance(value, (str, bytes, int, float, complex, list, tuple, dict)) else text
    return f"{kind} of {len(cast('Sequence[Any]', value))}" if hasattr(value, "__len__") else kind


def names_of(xs: Sequence[Any]) -> tuple[str, ...]:
    """What errors call the tensors of a rotation: x alone, or q and k."""
    return ("x",) if len(xs) == 1 else ("q", "k")


def index(name: str, value: Any) -> int:
    """An int, a SymInt under tracing, or anything with __index__, as an int; TypeError for bools, floats and tensors of several numbers."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return cast(int, value)
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {describe(value)}") from None


def length(name: str, value: Any) -> int:
    """A number of tokens, from 0 to the largest int64."""
    n = index(name, value)
    if n < 0:
        raise ValueError(f"{name} must be >= 0, got {digits(n)}")
    return _in_int64(name, n)


def position(name: str, value: Any) -> int:
    """A position, an integer of either sign that fits int64."""
    return _in_int64(name, index(name, value))


def digits(n: int) -> str:
    """An integer as messages show it: a long one by its number of bits, since Python refuses to print 4,300 digits and more."""
    return f"an integer of {n.bit_length()} bits" if type(n) is int and n.bit_length() > 64 else str(n)


def _in_int64(name: str, n: int) -> int:
    if type(n) is int and not -(2**63) <= n < 2**63:  # a SymInt has no bound to compare with
        raise ValueError(f"{name} must fit int64, got {digits(n)}")
    return n


def count(name: str, value: Any, most: int = 2**63 - 1) -> int:
    """A number of things, from 1 to `most`."""
    n = index(name, value)
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {digits(n)}")
    if n > most:
        raise ValueError(f"{name} must be at most {most:,}, got {describe(n)}")
    return n


def even_dim(dim: Any, name: str = "dim") -> int:
    """A positive even number of channels, at most WIDEST."""
    value = index(name, dim)
    if value > WIDEST:
        raise ValueError(
            f"{name} must be at most {WIDEST:,} channels, got {digits(value)}; is it the size of one head?"
        )
    if value <= 0 or value % 2:
        raise ValueError(f"{name} must be a positive even integer, got {digits(value)}")
    return value


def number(name: str, value: Any, *, at_least: float | None = None) -> float:
    """A finite real number, positive or, where at_least is given, at least that."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {describe(value)}")
    bound = "> 0" if at_least is None else f">= {at_least}"
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a finite number {bound}, got one too large for a float") from None
    if not math.isfinite(result) or (value <= 0 if at_least is None else value < at_least):
        raise ValueError(f"{name} must be a finite number {bound}, got {value}")
    return result


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return value


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {describe(value)}")
    return value


def text(name: str, value: Any, example: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string such as {example!r}, got {describe(value)}")
    return value


def tensor(name: str, value: Any, kind: str = "a tensor") -> Tensor:
    """A tensor of any dtype and layout."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {kind}, got {describe(value)}")
    return value


def path(name: str, value: Any) -> Path:
    """The path of a file or folder, which need not exist."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, a string or pathlib.Path, got {describe(value)}")
    return Path(cast("str | os.PathLike[str]", value))


def module(name: str, value: Any) -> torch.nn.Module:
    """A module of torch."""
    if not isinstance(value, torch.nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {describe(value)}")
    return value


def instance(name: str, value: Any, kind: type[T], source: str) -> T:
    """A value of that class. source: what makes one, for the message."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {source}, got {describe(value)}")
    return value


def list_of(name: str, value: Any, items: str) -> Sequence[Any]:
    """A list, a tuple or another sequence, but no text. items: what it holds, for the message."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of {items}, got {describe(value)}")
    return cast("Sequence[Any]", value)


def device(name: str, value: Any) -> torch.device | None:
    """A device of torch, None for the default one. Whether this machine has it shows at its first use."""
    if value is None or isinstance(value, torch.device):
        return value
    if isinstance(value, str):
        try:
            return torch.device(value)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{name} {describe(value)} is no device of torch: {reason[:200]}") from None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 128:
        return torch.device(value)  # the number of an accelerator, as torch takes it
    raise TypeError(f"{name} must be a torch.device or its name, such as 'cpu' or 'cuda:0', got {describe(value)}")


def floating_dtype(name: str, value: Any) -> torch.dtype:
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name} must be a floating point torch.dtype, got {describe(value)}")
    return value


def number_of_any_sign(name: str, value: Any) -> float:
    """A real number as a float; it may be negative, zero, infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {describe(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float") from None


def dense(name: str, value: Tensor) -> None:
    """Raise for nested, sparse and other layouts that have no strides."""
    if value.is_nested and value.layout is torch.jagged:
        raise TypeError(
            f"{name} is a jagged nested tensor, which is not served here: give its values(), all documents one after the other"
        )
    if value.is_nested:
        raise TypeError(
            f"{name} is a nested tensor of strided layout, which torch no longer develops: make it jagged, by "
            f"torch.nested.nested_tensor([...], layout=torch.jagged)"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}; call {name}.to_dense() first")


def local(name: str, value: Tensor) -> None:
    """Raise for a DTensor, which torch's operations do not mix with plain tensors."""
    if type(value) is not Tensor and hasattr(value, "to_local"):
        raise TypeError(
            f"{name} is a DTensor, which is not served here: give {name}.to_local(), the part of this process"
        )


def positions(value: Tensor) -> None:
    """Raise for positions that are not numbers, or in half precision, where successive positions are one number."""
    if value.dtype in (torch.float32, torch.float64):
        if value.layout is not torch.strided or value.is_nested:
            dense("positions", value)
        return
    if value.is_floating_point():
        raise TypeError(
            f"positions must be integers, float32 or float64, got {value.dtype}, in which large successive positions are one number "
            f"(256 and 257 in bfloat16): compute them in another dtype"
        )
    integers("positions", value)


def integers(name: str, value: Tensor) -> None:
    """Raise unless value is a dense integer tensor."""
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got {value.dtype}")
    if value.layout is not torch.strided or value.is_nested:
        dense(name, value)
