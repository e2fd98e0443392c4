"""The frequencies of a module: base, dim and schemes -> inv_freq [rad/token] -> cos and sin at given positions.

`inv_freq` in float32 is the definition of the frequencies: it is what users see and what checkpoints were trained with, within an
ulp. Everything after it is exact for it (angles="exact"), or is the float32 arithmetic of transformers, bit for bit
(angles="float32").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._constants import Constants
from .._torch import plain_torch, tracing
from .._types import AngleArithmetic, CosSin, Frequencies, Length
from ..scaling.scheme import Scheme
from . import gpu
from .turns import exact_cos_sin, float32_cos_sin, in_one_word, turns_per_token


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
    angles: AngleArithmetic = "exact"
    given: tuple[float, ...] | None = None
    given_factor: float = 1.0
    inv_freq: tuple[float, ...] = field(init=False, repr=False, compare=False)
    attention_factor: float = field(init=False, repr=False, compare=False)
    window: int | None = field(init=False, repr=False, compare=False)
    """The trained window [token] of the schemes that depend on the length of the context, None where none does."""
    _inv_freq: Constants = field(init=False, repr=False, compare=False)
    _words: Constants = field(init=False, repr=False, compare=False)
    _one_word: Constants = field(init=False, repr=False, compare=False)
    _amplitude: Constants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        with plain_torch():
            inv_freq, factor = self._frequencies(torch.device("cpu"), None)
            values = tuple(inv_freq.tolist())
            _check_factor(factor)
            windows = [scheme.window for scheme in self.schemes if scheme.window is not None]
            for length in {
                *windows,
                *(window + 1 for window in windows),
            }:  # where a scheme that depends on the length changes
                _check_factor(self._frequencies(torch.device("cpu"), length)[1])
            high, low = turns_per_token(inv_freq, self.divisor)
            words = (tuple(high.tolist()), tuple(low.tolist()))
            one_word = tuple(in_one_word(high, low).tolist())
        derived = {
            "inv_freq": values,
            "attention_factor": float(factor),
            "window": min(windows) if windows else None,
            "_inv_freq": Constants(values, torch.float32),
            "_words": Constants(words, torch.int64),
            "_one_word": Constants(one_word, torch.int64),
            "_amplitude": Constants((float(factor),), torch.float64),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def frequencies(self, device: torch.device, length: Length = None, *, traced: bool | None = None) -> Frequencies:
        """inv_freq float32 (dim/2,) or, for a (batch,) length that matters, (batch, dim/2), and the attention factor with it."""
        if self._fixed(length):
            return self._inv_freq.on(device, traced=traced), self.attention_factor
        return self._frequencies(device, length)

    def cos_sin(
        self,
        positions: Tensor,
        dtype: torch.dtype,
        *,
        length: Length = None,
        scale: Callable[[Tensor], Tensor] | None = None,
        far: bool = False,
        traced: bool = False,
    ) -> CosSin:
        """Tables (..., dim/2) for int64 positions (...), times the attention factor and scale(positions), an amplitude (..., dim/2).

        A (batch,) length gives (batch, seq, dim/2) for positions (seq,) or (batch, seq). far: some |position| exceeds 2^31, where one
        word of the angle is not enough.
        """
        fixed, device = self._fixed(length), positions.device
        if fixed and scale is None and dtype == torch.float32 and self.angles == "exact" and not (far or traced):
            table = gpu.cos_sin(positions, self._one_word, self._amplitude)
            if table is not None:
                return table
        inv_freq, factor = self.frequencies(device, length, traced=traced)
        if inv_freq.ndim == 2:  # a spectrum for each row of the batch: (batch, 1, dim/2) beside (batch, seq) positions
            inv_freq = inv_freq[:, None]
            factor = factor[:, None, None] if isinstance(factor, Tensor) and factor.ndim else factor

        def amplitude(positions: Tensor) -> float | Tensor:
            return factor if scale is None else scale(positions) * factor

        if self.angles == "float32":
            inv_freq = inv_freq if self.divisor == 1.0 else inv_freq / self.divisor
            return float32_cos_sin(positions, inv_freq, dtype, amplitude, traced=traced)
        near = dtype != torch.float64 and not far
        if fixed and near:
            return exact_cos_sin(
                positions, self._one_word.on(device, traced=traced), None, dtype, amplitude, traced=traced
            )
        if fixed:
            high, low = self._words.on(device, traced=traced).unbind(0)
        else:
            high, low = turns_per_token(inv_freq, self.divisor)
        if near:
            high, low = in_one_word(high, low), None
        return exact_cos_sin(positions, high, low, dtype, amplitude, traced=traced)

    def _fixed(self, length: Length) -> bool:
        """True if the frequencies are those made once, whatever the length of the context."""
        return length is None or self.window is None

    def _made_from(self) -> str:
        """Base and schemes, for errors."""
        schemes = "".join(f" and {type(scheme).__name__}" for scheme in self.schemes)
        return f"base {self.base}{schemes}"

    def _frequencies(self, device: torch.device, length: Length) -> Frequencies:
        if self.given is not None:
            return torch.tensor(self.given, dtype=torch.float32, device=device), self.given_factor
        assert self.base is not None
        formula = _in_float32 if self.angles == "float32" else _in_float64
        try:
            inv_freq, factor = formula(self.base, self.dim, self.schemes, device, length)
        except OverflowError as error:
            raise ValueError(f"{self._made_from()} overflows a float: {error}") from None
        if device.type == "cpu" and not tracing() and not bool(inv_freq.isfinite().all()):
            at = "" if length is None else " at the given length"
            raise ValueError(
                f"frequencies must be finite in float32, got {inv_freq.max().item()} from {self._made_from()}{at}"
            )
        return inv_freq, factor


def _check_factor(factor: float | Tensor) -> None:
    """Raise where cos and sin times the attention factor would overflow float32 tables."""
    if not 0.0 < float(factor) <= torch.finfo(torch.float32).max:
        raise ValueError(f"the attention factor must be positive and finite in float32, got {float(factor)}")


def _in_float64(
    base: float, dim: int, schemes: tuple[Scheme, ...], device: torch.device, length: Length
) -> Frequencies:
    """base^(-2i / dim) (Su et al. 2021, arXiv:2104.09864, section 3.2.2) and the schemes in float64, rounded once to float32."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    inv_freq, factor = torch.pow(base, -exponents), 1.0
    for scheme in schemes:
        inv_freq, more = scheme(inv_freq, base=base, dim=dim, length=length)
        factor = factor * more
    return inv_freq.to(torch.float32), factor


def _in_float32(
    base: float, dim: int, schemes: tuple[Scheme, ...], device: torch.device, length: Length
) -> Frequencies:
    """The same in float32, in the order of operations of transformers 5.23 (modeling_llama.py, modeling_rope_utils.py).

    transformers has no chains. The first scheme is computed as there, from the base; those after it by their formula, from the
    frequencies of the one before.
    """
    inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float, device=device) / dim))
    factor = 1.0
    for i, scheme in enumerate(schemes):
        formula = scheme.in_float32 if i == 0 else scheme
        inv_freq, more = formula(inv_freq, base=base, dim=dim, length=length)
        factor = factor * more
    return inv_freq, factor
