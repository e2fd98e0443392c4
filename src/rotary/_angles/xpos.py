"""xPos: an amplitude that grows with the position of a query and decays with that of a key (Sun et al. 2022, arXiv:2212.10554, Alg. 1).

    zeta_i = (2i + 0.4 dim) / (1.4 dim)                     one per plane, i = 0 .. dim/2 - 1, 0.2857 .. 1
    query tables x zeta_i^(+position / scale_base)          key tables x zeta_i^(-position / scale_base)

so that a score carries zeta_i^(distance / scale_base) < 1 for keys before the query. Queries and keys must share the position where
the power is zero, since cached keys are not rotated again. Here it is always position 0.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._constants import Constants
from .._subclasses.dtensor import several_processes
from .._types import Role
from . import polynomials


class Decay:
    """zeta^(position / scale_base) of each plane, as a function of positions.

    powers: (planes + 1,) float64, log zeta of each plane, then the scale_base, as kernels read them.
    """

    __slots__ = ("powers",)

    def __init__(self, zeta: tuple[float, ...], scale_base: float) -> None:
        self.powers = Constants((*(math.log(z) for z in zeta), scale_base), torch.float64)

    def at(self, positions: Tensor, *, traced: bool | None = None) -> Tensor:
        """The decay at positions (...) -> (..., planes) float64, float32 on a device without float64. traced: the answer of tracing().

        Computed by exp and log, not by pow: the last bit of torch.pow depends on the place of a value in memory, so prefill would differ
        from decode. Integer positions take the exp of polynomials.py, which has the same bits everywhere; real positions, which may
        require a gradient, take torch's.
        """
        powers = self.powers.on(positions.device, traced=traced)
        power = (positions.to(powers.dtype) / powers[-1])[..., None] * powers[:-1]
        return power.exp() if positions.is_floating_point() or power.dtype == torch.float32 else polynomials.exp(power)


@dataclass(frozen=True)
class XPos:
    """dim: rotated channels. scale_base [token]: the distance over which the slowest-decaying exponent grows by one."""

    dim: int
    scale_base: float
    zeta: tuple[float, ...] = field(init=False, repr=False)
    _decays: tuple[Decay, Decay] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        zeta = tuple((2 * i + 0.4 * self.dim) / (1.4 * self.dim) for i in range(self.dim // 2))
        object.__setattr__(self, "zeta", zeta)
        object.__setattr__(self, "_decays", (Decay(zeta, self.scale_base), Decay(zeta, -self.scale_base)))

    def decay(self, role: Role = "query") -> Decay:
        """The scale of queries, or its inverse for keys."""
        return self._decays[role == "key"]

    def scale(self, positions: Tensor, role: Role = "query") -> Tensor:
        """zeta^(positions / scale_base), inverted for keys: integer positions (...) -> (..., dim/2) float64 (float32 without it)."""
        return self.decay(role).at(positions)

    def furthest(self, dtype: torch.dtype) -> int:
        """The largest |position| whose scale, and its inverse, stay within finfo(dtype).max / 64: room for a query of 64."""
        furthest = self.scale_base * math.log(torch.finfo(dtype).max / 64) / -math.log(self.zeta[0])
        return int(min(furthest, 2.0**63))  # a scale_base near the largest float makes it infinite

    def overflow(self, furthest: int, dtype: torch.dtype) -> str | None:
        """The error message, with the remedy, if the scale of that position would overflow (or vanish in) dtype; else None."""
        limit = self.furthest(dtype)
        if furthest <= limit:
            return None
        return (
            f"xPos scales position {furthest} by {self.zeta[0]:.4f}^(+-{furthest}/{self.scale_base}), beyond what {dtype} "
            f"holds (|position| <= {limit}); use a larger scale_base, at least "
            f"{math.ceil(self.scale_base * furthest / max(limit, 1))}, or a wider dtype"
        )


def refuse(overflow: str | None, *, alike: bool) -> None:
    """Raise ValueError(overflow), unless it is None. alike: True if every process has the same positions.

    Otherwise, in a group of several processes, it is a warning: an error would stop this process alone, and the others, whose positions
    are nearer, would wait for it at their next collective.
    """
    if overflow is None:
        return
    if alike or not several_processes():
        raise ValueError(overflow)
    warnings.warn(f"{overflow} (a warning, since other processes may hold other positions)", stacklevel=3)
