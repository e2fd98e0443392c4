"""What comes over the border of RotaryEmbedding: the argument that is meant, or the error that says what came and what to do."""

from __future__ import annotations

import math
import numbers
import operator
import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .constants import plain_torch, tracing
from .positions import packed, sequence

if TYPE_CHECKING:
    from .scaling import Scheme

Range = tuple[int, int]


WIDEST = 2**16
"""Channels of a head: no model has a hundredth of it, and a head_dim of a config gone wrong must not fill the memory with planes."""


def even_dim(dim: Any) -> int:
    value = _index("dim", dim)
    if value > WIDEST:
        raise ValueError(f"dim must be at most {WIDEST:,} channels, got {value}; is it the size of one head?")
    if value <= 0 or value % 2:
        raise ValueError(f"dim must be a positive even integer, got {value}")
    return value


def number(name: str, value: Any, *, at_least: float | None = None) -> float:
    """A finite real number, positive or at least so much."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__} {value!r}")
    if not math.isfinite(value) or (value <= 0 if at_least is None else value < at_least):
        raise ValueError(
            f"{name} must be a finite number {'> 0' if at_least is None else f'>= {at_least}'}, got {value}"
        )
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def rescaled_base(base: Any, factor: Any, dim: int) -> float:
    """base x factor^(dim / (dim - 2)): the NTK-aware change of base, for which the longest wavelength grows by the factor."""
    base, factor = number("base", base), number("base_rescale_factor", factor)
    if base == 1.0:
        warnings.warn("base 1 gives every plane the same frequency", stacklevel=3)
    if factor == 1.0:
        return base
    if dim == 2:
        raise ValueError(
            f"base_rescale_factor needs dim >= 4, got dim 2 and factor {factor}: one plane has no longest wavelength to stretch"
        )
    return number("base x base_rescale_factor^(dim / (dim - 2))", base * factor ** (dim / (dim - 2)))


def schemes(scaling: Any) -> tuple[Scheme, ...]:
    """One scheme, several, or none, as a tuple."""
    found = () if scaling is None else tuple(scaling) if isinstance(scaling, (tuple, list)) else (scaling,)
    for scheme in cast("tuple[Any, ...]", found):
        if isinstance(scheme, type) or not callable(scheme) or not hasattr(scheme, "window"):
            raise TypeError(f"scaling must be a scheme of rotary.scaling or a tuple of them, got {scheme!r}")
    return cast("tuple[Scheme, ...]", found)


def frequencies(inv_freq: Any) -> tuple[float, ...]:
    """Given frequencies as float32 values."""
    if isinstance(inv_freq, Tensor):
        if inv_freq.requires_grad:
            raise ValueError(
                "inv_freq requires a gradient, which a copy of its values would cut off; compute cos and sin from it yourself and "
                "give them to rotary.apply_rotary, which differentiates its tables"
            )
        if inv_freq.device.type == "meta":
            raise ValueError("inv_freq is on the meta device and has no values")
        if not inv_freq.is_floating_point():
            raise TypeError(f"inv_freq must be floating point, got {inv_freq.dtype}")
        shape = tuple(inv_freq.shape)
    else:
        shape = (len(inv_freq),)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"inv_freq must have shape (dim/2,), got {shape}")
    with plain_torch():
        values = torch.as_tensor(inv_freq, dtype=torch.float32, device="cpu")
        if not bool(values.isfinite().all()):
            raise ValueError(f"inv_freq must be finite, got {values.tolist()}")
        return tuple(values.tolist())


def length(name: str, value: Any) -> int:
    """A number of tokens: an int, a SymInt under tracing, or anything with __index__; not a bool, not a float."""
    n = _index(name, value)
    if n < 0:
        raise ValueError(f"{name} must be >= 0, got {n}")
    return n


def context_length(value: Any, x: Tensor | None, axis: int) -> int | Tensor | None:
    """length= of a call: tokens in the whole context, for all rows or, (batch,), for each."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        return length("length", value)
    integers("length", value)
    _check_rows("length", value, x, axis)
    return value


def check_rows_of_length(length: int | Tensor | None, positions: Tensor) -> None:
    """Raise where a (batch,) length does not go with the rows of positions."""
    if not isinstance(length, Tensor) or not length.ndim or positions.ndim < 2:
        return
    if positions.ndim > 2 or positions.shape[0] not in (1, length.shape[0]):
        raise ValueError(
            f"length has shape {tuple(length.shape)}, positions {tuple(positions.shape)}: (seq,) or (batch, seq) is needed"
        )


def integers(name: str, value: Tensor) -> None:
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got {value.dtype}")


def known_range(positions: Tensor) -> Range | None:
    """The smallest and the largest position, where the host may look: CPU tensors in eager mode."""
    if tracing() or positions.device.type != "cpu" or positions.numel() == 0:
        return None
    low, high = positions.aminmax()
    return int(low), int(high)


def positions(
    keys: Tensor, axis: int, queries: int, offset: Any, given: Any, cu_seqlens: Any
) -> tuple[Tensor, Range | None]:
    """int64 positions of keys, (seq,) or (batch, seq), from whichever way they were given, and their range where an int says it."""
    n = keys.shape[axis]
    if given is not None:
        if isinstance(offset, Tensor) or offset != 0:
            raise TypeError("give positions or offset, not both")
        if cu_seqlens is not None:
            raise TypeError("give positions or cu_seqlens, not both")
        return _given_positions(keys, axis, given), None
    start: int | Tensor = offset if isinstance(offset, Tensor) else _index("offset", offset)
    if isinstance(start, Tensor):
        integers("offset", start)
        _same_device("offset", start, keys)
    if cu_seqlens is not None:
        if not isinstance(cu_seqlens, Tensor):
            raise TypeError(f"cu_seqlens must be an integer tensor, got {type(cu_seqlens).__name__}")
        _same_device("cu_seqlens", cu_seqlens, keys)
        if queries != n:
            raise ValueError(f"with cu_seqlens q and k must be equally long, got {queries} and {n}")
        return packed(cu_seqlens, n, offset=start), None
    if not isinstance(start, Tensor):
        known = None if tracing() or n == 0 else (start, start + n - 1)
        return sequence(n, start, device=keys.device), known
    _check_rows("offset", start, keys, axis)
    return sequence(n, start[0] if start.ndim and start.shape[0] == 1 else start), None


def _given_positions(keys: Tensor, axis: int, given: Any) -> Tensor:
    if not isinstance(given, Tensor):
        raise TypeError(f"positions must be an integer tensor, got {type(given).__name__}")
    integers("positions", given)
    _same_device("positions", given, keys)
    shape, n = tuple(given.shape), keys.shape[axis]
    if given.ndim not in (1, 2):
        raise ValueError(f"positions must have shape (seq,) or (batch, seq), got {shape}")
    if shape[-1] != n:
        raise ValueError(
            f"positions has {shape[-1]} entries along the sequence, x with shape {tuple(keys.shape)} has {n} along dimension {axis}"
        )
    if given.ndim == 2 and shape[0] == 1:
        return given[0]
    if given.ndim == 2:
        _check_batch("positions", shape[0], keys, axis)
    return given


def _check_rows(name: str, value: Tensor, x: Tensor | None, axis: int) -> None:
    if value.ndim > 1:
        raise ValueError(f"{name} must be an int, 0-d or (batch,), got shape {tuple(value.shape)}")
    if x is not None:
        _same_device(name, value, x)
        if value.ndim and value.shape[0] != 1:
            _check_batch(name, value.shape[0], x, axis)
        elif value.ndim and axis != 0 and x.ndim > 2 and x.shape[0] != 1:
            raise ValueError(
                f"{name} has 1 row, x with shape {tuple(x.shape)} has a batch of {x.shape[0]}; give an int or 0-d for all rows"
            )


def _check_batch(name: str, rows: int, x: Tensor, axis: int) -> None:
    if axis == 0:
        raise ValueError(
            f"{name} with {rows} rows needs seq_dim other than 0: the batch is dimension 0 of x with shape {tuple(x.shape)}"
        )
    if rows != x.shape[0]:
        raise ValueError(f"{name} batch {rows} does not match x batch {x.shape[0]} (x has shape {tuple(x.shape)})")


def _same_device(name: str, value: Tensor, x: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{name} on {value.device}, x on {x.device}: move {name} first")


def _index(name: str, value: Any) -> int:
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return cast(int, value)
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}") from None
