"""The frequencies that a constructor is given, checked: a base and its factor, or numbers of the caller's own."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._torch import plain_torch


def rescaled_base(base: Any, factor: Any, dim: int) -> float:
    """base x factor^(dim / (dim - 2)): the NTK-aware change of base, for which the longest wavelength grows by the factor."""
    base, factor = _checks.number("base", base), _checks.number("base_rescale_factor", factor)
    if base == 1.0:
        warnings.warn("base 1 gives every plane the same frequency", stacklevel=4)
    if factor == 1.0:
        return base
    if dim == 2:
        raise ValueError(
            f"base_rescale_factor needs dim >= 4, got dim 2 and factor {factor}: one plane has no longest wavelength to stretch"
        )
    try:
        rescaled = base * factor ** (dim / (dim - 2))
    except OverflowError:
        rescaled = math.inf
    return _checks.number("base x base_rescale_factor^(dim / (dim - 2))", rescaled)


def frequencies(inv_freq: Any) -> tuple[tuple[float, ...], bool]:
    """The caller's frequencies as numbers, and True if they are float64, which those of a float64 tensor are; all others become float32."""
    if isinstance(inv_freq, Tensor):
        if inv_freq.requires_grad:
            raise ValueError(
                "inv_freq requires a gradient, which a copy of its values would cut off; compute cos and sin from it yourself and "
                "give them to rotary.apply_rotary, which differentiates its tables"
            )
        _checks.local("inv_freq", inv_freq)
        if inv_freq.device.type == "meta":
            raise ValueError("inv_freq is on the meta device and has no values")
        if not inv_freq.is_floating_point():
            raise TypeError(f"inv_freq must be floating point, got {inv_freq.dtype}")
        if inv_freq.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"inv_freq must be float32 or float64, got {inv_freq.dtype}: rounded to it, the angles are wrong, and more so far out"
            )
        _checks.dense("inv_freq", inv_freq)
        shape, entries = tuple(inv_freq.shape), inv_freq
    else:
        try:
            entries = [_checks.number_of_any_sign(f"inv_freq[{i}]", entry) for i, entry in enumerate(inv_freq)]
        except TypeError as error:
            raise TypeError(f"inv_freq must be a tensor or a list of numbers, (dim/2,): {error}") from None
        shape = (len(entries),)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"inv_freq must have shape (dim/2,), got {shape}")
    if 2 * shape[0] > _checks.WIDEST:
        raise ValueError(f"inv_freq must have at most {_checks.WIDEST // 2:,} entries, one per plane, got {shape[0]:,}")
    with plain_torch():
        values = torch.as_tensor(entries, dtype=torch.float32, device="cpu")
        wrong = ~values.isfinite()
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise ValueError(f"inv_freq must be finite in float32, got {values[first].item()} at entry {first}")
        double = isinstance(inv_freq, Tensor) and inv_freq.dtype == torch.float64
        return tuple(inv_freq.tolist() if double else values.tolist()), double
