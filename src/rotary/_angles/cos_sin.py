"""cos and sin at given positions, from frequencies and amplitude; refuses positions past the trained window or the range of the dtype."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._torch import has_float64, tracing
from .._types import CosSin, Length, Range, Role
from .frequencies import Spectrum
from .integers import as_int64, range_of
from .plan import LibraryPlan
from .turns import FAR
from .xpos import XPos, refuse


@dataclass(frozen=True)
class Tables:
    """The tables of a module, as a value: its spectrum, and the decay of xPos or None."""

    spectrum: Spectrum
    xpos: XPos | None = None
    _plan: LibraryPlan = field(init=False, repr=False, compare=False, default_factory=LibraryPlan)

    @property
    def plan(self) -> Any:
        """The native library's object for these tables, packed at the first call; False where the library does not make them."""
        packed = self._plan.packed
        return self._plan.make(self.spectrum, self.xpos) if packed is None else packed

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
        alike: bool = True,
        part: bool = False,
    ) -> CosSin:
        """(cos, sin) of positions (...), integers or float32 or float64, each (..., dim/2) in dtype, amplitude folded in.

        coordinates: positions are (..., coordinates), one for each axis.
        position_range: (smallest, largest) if known; by default CPU tensors are read.
        input_dtype: that of q and k, by default dtype, for the overflow check of xPos.
        traced: the answer of tracing(), if the caller has it; by default it is asked here.
        counted: True if positions were counted from ints, which every process has alike.
        alike: False if position_range comes from a tensor, which may differ between processes.
        part: True if other processes have other positions of the same tensor; then no value of a position raises.

        ValueError where a scheme needs a length and has none, unless positions were counted and lie within its trained window; and where
        the scale of a known position overflows input_dtype. In a group of processes the second is a warning for tensors of positions.
        """
        if positions.is_floating_point() and self.spectrum.angles == "float32":
            raise TypeError(
                f"angles='float32' is transformers' arithmetic of whole positions, got {positions.dtype} ones: take angles='exact', or "
                f"round them"
            )
        traced = tracing() if traced is None else traced
        window = self.spectrum.window if length is None else None
        positions = positions if positions.is_floating_point() else as_int64(positions, traced)
        alike = alike and position_range is not None
        position_range = position_range or range_of(positions, traced)
        far = position_range is not None and not -FAR <= position_range[0] <= position_range[1] <= FAR
        if window is not None and (not counted or (position_range is not None and position_range[1] >= window)):
            # Each process of a group may have other positions in its tensor: if values decided, some would raise and the others would
            # wait for them at the next collective. So for tensors the type alone decides.
            subject, remedy = f"position {position_range[1] if position_range else None} lies", "pass length="
            if not counted:
                subject, remedy = "positions in a tensor may lie", "pass length=, which is alike in every process"
            spectra = (self.spectrum, *self.spectrum.parts)
            schemes = dict.fromkeys(repr(s) for part in spectra for s in part.schemes if s.window is not None)
            raise ValueError(
                f"{subject} beyond the trained window of {window} tokens, and {' and '.join(schemes)} depends on how long the whole "
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


def radians_and_scale(tables: Tables, n: int, device: torch.device) -> CosSin:
    """The documented pair: freqs (n, dim) float32 [rad], and scale, (n, dim) float32 under xPos, else 0-d.

    The documented scale is centred on n // 2. Tables for queries and keys are centred on position 0, whatever the length.
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
