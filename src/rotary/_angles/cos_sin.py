"""cos and sin at given positions: frequencies and amplitude together, within what was trained and what the dtype can represent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._torch import has_float64, tracing
from .._types import CosSin, Length, Range, Role
from .frequencies import Spectrum
from .plan import Plan
from .turns import FAR
from .xpos import XPos, refuse


@dataclass(frozen=True)
class Tables:
    """What a module computes from positions, as a value: its spectrum, and the decay of xPos or None."""

    spectrum: Spectrum
    xpos: XPos | None = None
    _plan: Plan = field(init=False, repr=False, compare=False, default_factory=Plan)

    @property
    def plan(self) -> Any:
        """What the native library takes for these tables; False where it does not make them."""
        kept = self._plan.kept
        return self._plan.make(self.spectrum, self.xpos) if kept is None else kept

    def at(
        self,
        positions: Tensor,
        dtype: torch.dtype,
        *,
        coordinates: bool = False,
        role: Role = "query",
        length: Length = None,
        position_range: Range | None = None,
        input_dtype: torch.dtype | None = None,
        traced: bool | None = None,
        counted: bool = False,
        part: bool = False,
    ) -> CosSin:
        """(cos, sin) of positions (...), integers or float32 or float64, each (..., dim/2) in dtype, amplitude folded in.

        coordinates: positions are (..., coordinates), one for each axis.
        position_range: (smallest, largest) if known, and alike in every process; by default CPU tensors are read.
        input_dtype: that of q and k, by default dtype, for the overflow check of xPos.
        traced: what tracing() says, where the caller has asked already.
        counted: positions were counted from ints, which are alike in every process.
        part: positions are those of this process among several that hold others, and nothing is refused for their values.

        ValueError where a scheme needs a length and has none, unless positions were counted and lie within its trained window; and where
        the scale of a known position overflows input_dtype, which is a warning for tensors of positions among several processes.
        """
        if positions.is_floating_point() and self.spectrum.angles == "float32":
            raise TypeError(
                f"angles='float32' is transformers' arithmetic of whole positions, got {positions.dtype} ones: take angles='exact', or "
                f"round them"
            )
        traced = tracing() if traced is None else traced
        window = self.spectrum.window if length is None else None
        positions = positions if positions.is_floating_point() else as_int64(positions, traced)
        alike = position_range is not None
        position_range = position_range or range_of(positions, traced)
        far = position_range is not None and not -FAR <= position_range[0] <= position_range[1] <= FAR
        if window is not None and (not counted or (position_range is not None and position_range[1] >= window)):
            # A tensor may hold the positions of one process of several: were its values decisive, some would raise and others wait.
            beyond, remedy = f"position {position_range[1] if position_range else None} lies", "pass length="
            if not counted:
                beyond, remedy = "positions in a tensor may lie", "pass length=, which is alike in every process"
            raise ValueError(
                f"{beyond} beyond the trained window of {window} tokens, and {self.spectrum.schemes} depends on how long the whole "
                f"context is: {remedy}"
            )
        xpos = self.xpos
        if xpos is None:
            return self.spectrum.cos_sin(
                positions, dtype, coordinates=coordinates, length=length, far=far, traced=traced
            )
        if position_range is not None and not part:
            overflow = xpos.overflow(max(abs(position_range[0]), abs(position_range[1])), input_dtype or dtype)
            refuse(overflow, alike=alike)
        return self.spectrum.cos_sin(positions, dtype, length=length, decay=xpos.decay(role), far=far, traced=traced)


def as_int64(positions: Tensor, traced: bool) -> Tensor:
    """Positions as int64. Of uint64 only the lower half fits; where the host may read them, the rest is a ValueError."""
    if positions.dtype == torch.int64:
        return positions
    converted = positions.to(torch.int64)
    if (
        positions.dtype == torch.uint64
        and not traced
        and positions.device.type == "cpu"
        and bool((converted < 0).any())
    ):
        raise ValueError("positions must be below 2^63, got larger ones in a uint64 tensor")
    return converted


def range_of(positions: Tensor, traced: bool) -> Range | None:
    """The smallest and the largest position, where reading it does not wait for a device: CPU tensors in eager mode. Real ones are
    rounded away from 0; ValueError where one is not finite."""
    if traced or positions.device.type != "cpu" or positions.numel() == 0:
        return None
    low, high = positions.detach().aminmax()
    if positions.is_floating_point():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("positions must be finite, got infinite ones or NaN")
        return math.floor(low), math.ceil(high)
    return int(low), int(high)


def radians_and_scale(tables: Tables, n: int, device: torch.device) -> CosSin:
    """The documented pair: freqs (n, dim) float32 [rad], and scale, (n, dim) float32 under xPos, else 0-d.

    Only here is the scale centred on n // 2; tables for queries and keys are centred on position 0, whatever the length.
    """
    spectrum, xpos = tables.spectrum, tables.xpos
    work = device if has_float64(device) else torch.device("cpu")
    inv_freq, factor = spectrum.frequencies(work, n)
    positions = torch.arange(n, device=work)
    if spectrum.parts or spectrum.double:  # divided part by part
        freqs = (positions[:, None].to(torch.float64) * spectrum.radians(work, n)).to(device, torch.float32)
    else:
        inv_freq = inv_freq.to(torch.float64) if spectrum.angles == "exact" else inv_freq
        divided = positions.to(inv_freq.dtype) / spectrum.divisor
        freqs = (divided[:, None] * inv_freq).to(device, torch.float32)
    freqs = torch.cat((freqs, freqs), -1)
    if xpos is None:
        return freqs, torch.as_tensor(factor, dtype=torch.float32, device=device)
    if not tracing():
        refuse(xpos.overflow(n - n // 2, torch.float32), alike=True)
    scale = (xpos.scale(positions - n // 2) * factor).to(device, torch.float32)
    return freqs, torch.cat((scale, scale), -1)
