"""Tables for given positions: angles and amplitude together, within what was trained and what the dtype holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import Range, known_range
from .constants import has_float64, tracing
from .spectrum import Length, Spectrum
from .xpos import Role, XPos

Table = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Tables:
    """What a module computes from positions, as a value: its spectrum, and the amplitude of xPos or None."""

    spectrum: Spectrum
    xpos: XPos | None = None

    @property
    def mirrored(self) -> dict[str, tuple[float, ...] | None]:
        """The float32 values that a module shows as its buffers."""
        return {"inv_freq": self.spectrum.inv_freq, "scale": self.xpos.zeta if self.xpos else None}

    def at(
        self,
        positions: Tensor,
        dtype: torch.dtype,
        *,
        role: Role = "query",
        length: Length = None,
        known: Range | None = None,
        held: torch.dtype | None = None,
    ) -> Table:
        """(cos, sin) of integer positions (...), each (..., dim/2) in dtype, amplitude folded in.

        known: the range of positions where the host knows it without looking; CPU tensors are looked at. held: the dtype of what
        will be multiplied, by default dtype. ValueError where a known position lies beyond the trained window of a scheme
        that needs a length and has none, or where its scale overflows `held`.
        """
        window = self.spectrum.window if length is None else None
        if window is not None or self.xpos is not None:
            known = known or known_range(positions)
        if window is not None and known is not None and known[1] >= window:
            raise ValueError(
                f"position {known[1]} lies beyond the trained window of {window} tokens, and {self.spectrum.schemes} depends on "
                f"how long the whole context is: pass length="
            )
        positions, xpos = positions.to(torch.int64), self.xpos
        if xpos is None:
            return self.spectrum.cos_sin(positions, dtype, length=length)
        if known is not None:
            xpos.check(max(abs(known[0]), abs(known[1])), held or dtype)

        def scale(positions: Tensor) -> Tensor:
            return xpos.scale(positions, role)

        return self.spectrum.cos_sin(positions, dtype, length=length, scale=scale)

    def pair(self, n: int, where: torch.device) -> Table:
        """The documented pair: freqs (n, dim) float32 [rad], and scale, (n, dim) float32 under xPos, else 0-d.

        Only here is the scale centred on n // 2; tables for queries and keys share position 0, whatever the length.
        """
        work = where if has_float64(where) else torch.device("cpu")
        inv_freq, factor = self.spectrum.frequencies(work, n)
        if self.spectrum.angles == "exact":
            inv_freq = inv_freq.to(torch.float64)
        positions = torch.arange(n, device=work)
        divided = positions.to(inv_freq.dtype) / self.spectrum.divisor
        freqs = (divided[:, None] * inv_freq).to(where, torch.float32)
        freqs = torch.cat((freqs, freqs), -1)
        if self.xpos is None:
            return freqs, torch.as_tensor(factor, dtype=torch.float32, device=where)
        if not tracing():
            self.xpos.check(n - n // 2, torch.float32)
        scale = (self.xpos.scale(positions - n // 2) * factor).to(where, torch.float32)
        return freqs, torch.cat((scale, scale), -1)
