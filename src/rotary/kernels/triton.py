"""Not here yet."""

from __future__ import annotations

from torch import Tensor


def unavailable() -> str | None:
    return "this kernel is not part of this version"


def rotate(
    xs: tuple[Tensor, ...],
    outs: tuple[Tensor, ...],
    tables: tuple[tuple[Tensor, Tensor], ...],
    *,
    seq_dim: int,
    interleaved: bool,
    conjugate: bool,
) -> str | None:
    return unavailable()
