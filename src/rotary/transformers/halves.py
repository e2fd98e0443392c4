"""Halves: a model's tables of full width, one column per channel, reduced to one column per pair where the two columns are equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._types import CosSin
from .spec import RotationSpec, per_channel


def cos_sin(arguments: Sequence[Tensor], spec: RotationSpec) -> CosSin:
    """(cos, sin) from the arguments that carry a function's tables, in the width of these."""
    first, second = spec.form.unpack(arguments)
    return (second, first) if spec.sin_first else (first, second)


def equal_halves(arguments: Sequence[Tensor], spec: RotationSpec) -> CosSin | None:
    """(cos, sin) of half width, or None if the two channels of a pair rotate by different numbers.

    They are compared at every call, without a cache: a tensor's version does not count writes in inference mode, through .data or through
    numpy, and a cache that misses a write would rotate by old angles. On a device a comparison waits for it.
    """
    halves: list[Tensor] = []
    for table in cos_sin(arguments, spec):
        a, b = per_channel(table, spec.widths)
        # The gradient of a table would go to the one column of a pair that is read.
        if a is not b and ((table.requires_grad and torch.is_grad_enabled()) or not torch.equal(a, b)):
            return None
        halves.append(a if spec.widths != "repeat" else a.contiguous())
    return halves[0], halves[1]


def compared_for_free(arguments: Sequence[Tensor], spec: RotationSpec) -> bool:
    """Whether equal_halves() waits for no device: tables on the CPU, or with one column per pair that is read."""
    return spec.widths in ("first", "half") or all(t.device.type == "cpu" for t in arguments)
