"""Types that several rooms share. P = dim/2 planes; the batch is dimension 0 of every tensor that has one."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Tensors = tuple[Tensor, ...]
Sizes = tuple[int, ...]
"""A shape, or strides in elements."""

CosSin = tuple[Tensor, Tensor]
"""A table: cos and sin, each (seq, P) or (1 or batch, seq, P), amplitude folded in."""

Frequencies = tuple[Tensor, float | Tensor]
"""inv_freq (P,) or (batch, P) [rad/token], and the attention factor, a float or (batch,)."""

Length = int | Tensor | None
"""Tokens of the whole context: for all rows, (batch,) for each, or None for the trained window."""

Range = tuple[int, int]
"""The smallest and the largest position of a call."""

AngleArithmetic = Literal["exact", "float32"]
Role = Literal["query", "key"]
