"""The spectrum of a module: base, dim and schemes -> inv_freq [rad/token] -> tables of cos and sin for given positions.

`inv_freq` in float32 is the definition of the frequencies: it is what users see and what checkpoints were trained with, within an
ulp. Everything after it is exact for it (angles="exact"), or is the float32 arithmetic of transformers, bit for bit
(angles="float32").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .angles import cos_sin_of_angles, cos_sin_of_turns, in_blocks, in_one_word, turns, turns_per_token
from .constants import Constants, plain_torch, tracing
from .kernels import tables

if TYPE_CHECKING:
    from .scaling import Scheme

Angles = Literal["exact", "float32"]
Length = int | Tensor | None
Frequencies = tuple[Tensor, float | Tensor]
Tables = Callable[[Tensor, torch.dtype, float | Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Spectrum:
    """dim/2 frequencies as a value.

    base: that of the geometric progression, or None where `given` holds the frequencies (float32 values) and attention_factor.
    divisor: what positions are divided by (position interpolation); it is not in inv_freq, as documented.
    """

    dim: int
    base: float | None
    schemes: tuple[Scheme, ...] = ()
    divisor: float = 1.0
    angles: Angles = "exact"
    given: tuple[float, ...] | None = None
    given_factor: float = 1.0
    inv_freq: tuple[float, ...] = field(init=False, repr=False, compare=False)
    attention_factor: float = field(init=False, repr=False, compare=False)
    _inv_freq: Constants = field(init=False, repr=False, compare=False)
    _words: Constants = field(init=False, repr=False, compare=False)
    _one_word: Constants = field(init=False, repr=False, compare=False)
    _amplitude: Constants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        with plain_torch():
            inv_freq, factor = self._frequencies(torch.device("cpu"), None)
            values = tuple(inv_freq.tolist())
            if not bool(inv_freq.isfinite().all()):
                raise ValueError(
                    f"frequencies must be finite in float32, got {values} from base {self.base}, {self.schemes}"
                )
            high, low = turns_per_token(inv_freq, self.divisor)
            words = (tuple(high.tolist()), tuple(low.tolist()))
            one_word = tuple(in_one_word(high, low).tolist())
        object.__setattr__(self, "inv_freq", values)
        object.__setattr__(self, "attention_factor", float(factor))
        object.__setattr__(self, "_inv_freq", Constants(values, torch.float32))
        object.__setattr__(self, "_words", Constants(words, torch.int64))
        object.__setattr__(self, "_one_word", Constants(one_word, torch.int64))
        object.__setattr__(self, "_amplitude", Constants((float(factor),), torch.float64))

    @property
    def window(self) -> int | None:
        """The trained window [token] of the schemes that depend on the length of the context, None where none does."""
        windows = [scheme.window for scheme in self.schemes if scheme.window is not None]
        return min(windows) if windows else None

    def _static(self, length: Length) -> bool:
        """Whether frequencies are those made once, whatever the length of the context."""
        return length is None or self.window is None

    def frequencies(self, device: torch.device, length: Length = None) -> Frequencies:
        """inv_freq float32 (dim/2,) or, for a (batch,) length that matters, (batch, dim/2), and the attention factor with it."""
        if self._static(length):
            return self._inv_freq.on(device), self.attention_factor
        return self._frequencies(device, length)

    def cos_sin(
        self,
        positions: Tensor,
        dtype: torch.dtype,
        *,
        length: Length = None,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tables (..., dim/2) for int64 positions (...), times the attention factor and scale(positions), an amplitude (..., dim/2).

        A (batch,) length gives (batch, seq, dim/2) for positions (seq,) or (batch, seq).
        """
        plain = self._static(length) and scale is None and dtype == torch.float32
        if plain and self.angles == "exact" and not tracing():
            made = tables.cos_sin(positions, self._one_word, self._amplitude)
            if made is not None:
                return made
        inv_freq, factor = self.frequencies(positions.device, length)
        angles = self._product(inv_freq) if self.angles == "float32" else self._turns(inv_freq, dtype, length)

        def some(positions: Tensor) -> tuple[Tensor, Tensor]:
            return angles(positions, dtype, factor if scale is None else scale(positions) * factor)

        if inv_freq.ndim == 1:
            return in_blocks(some, positions, self.dim // 2, dtype)
        factor = factor[:, None, None] if isinstance(factor, Tensor) and factor.ndim else factor
        return some(positions)

    def _turns(self, inv_freq: Tensor, dtype: torch.dtype, length: Length) -> Tables:
        if self._static(length):
            high, low = self._words.on(inv_freq.device).unbind(0)
        else:
            high, low = turns_per_token(inv_freq, self.divisor)
        if inv_freq.ndim == 2:
            high, low = high[:, None], low[:, None]
        return lambda positions, to, scale: cos_sin_of_turns(turns(positions, high, low, dtype), to, scale)

    def _product(self, inv_freq: Tensor) -> Tables:
        inv_freq = inv_freq if self.divisor == 1.0 else inv_freq / self.divisor
        inv_freq = inv_freq[:, None] if inv_freq.ndim == 2 else inv_freq
        return lambda positions, to, scale: cos_sin_of_angles(positions[..., None].float() * inv_freq, to, scale)

    def _frequencies(self, device: torch.device, length: Length) -> Frequencies:
        if self.given is not None:
            inv_freq = torch.tensor(self.given, dtype=torch.float32, device=device)
            factor: float | Tensor = self.given_factor
            return inv_freq, factor
        assert self.base is not None
        return (
            self._float32(device, length, self.base)
            if self.angles == "float32"
            else self._exact(device, length, self.base)
        )

    def _exact(self, device: torch.device, length: Length, base: float) -> Frequencies:
        """base^(-2i / dim) (Su et al. 2021, arXiv:2104.09864, section 3.2.2) and the schemes in float64, rounded once to float32."""
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float64, device=device) / self.dim
        inv_freq, factor = torch.pow(base, -exponents), 1.0
        for scheme in self.schemes:
            inv_freq, more = scheme(inv_freq, base=base, dim=self.dim, length=length)
            factor = factor * more
        return inv_freq.to(torch.float32), factor

    def _float32(self, device: torch.device, length: Length, base: float) -> Frequencies:
        """The same in float32, in the order of operations of transformers 5.23 (modeling_llama.py, modeling_rope_utils.py)."""
        inv_freq = 1.0 / (base ** (torch.arange(0, self.dim, 2, dtype=torch.float, device=device) / self.dim))
        factor = 1.0
        for scheme in self.schemes:
            inv_freq, more = scheme.in_float32(inv_freq, base=base, dim=self.dim, length=length)
            factor = factor * more
        return inv_freq, factor
