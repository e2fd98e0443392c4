"""The frequencies of a module: base, dim and schemes -> inv_freq [rad/token] -> cos and sin at given positions.

`inv_freq` in float32 is the definition of the frequencies: it is what users see and what checkpoints were trained with, within an
ulp. Frequencies that are given in float64 stay so. Everything after it is exact for it (angles="exact"), or is the float32
arithmetic of transformers, bit for bit (angles="float32").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._constants import Constants
from .._torch import has_float64, plain_torch, tracing
from .._types import AngleArithmetic, CosSin, Frequencies, Length
from ..axes import Axes
from ..scaling.scheme import Scheme
from . import eager, exact
from .progression import in_float32, in_float64
from .turns import in_one_word, turns_of_numbers, turns_per_token
from .xpos import Decay


@dataclass(frozen=True)
class Spectrum:
    """dim/2 frequencies as a value, and which coordinate of a position each of them reads.

    base: that of the geometric progression, or None where `given` holds the frequencies and given_factor the attention factor, or where
        `parts` are put side by side.
    divisor: what positions are divided by (position interpolation); it is not in inv_freq, as documented.
    given: float32 values, or float64 ones where `double`.
    parts: spectra of one coordinate each; order: where each plane comes from, counted through all parts.
    axes: the coordinate that each plane reads; None: positions have no coordinates.
    """

    dim: int
    base: float | None
    schemes: tuple[Scheme, ...] = ()
    divisor: float = 1.0
    angles: AngleArithmetic = "exact"
    given: tuple[float, ...] | None = None
    given_factor: float = 1.0
    double: bool = False
    parts: tuple[Spectrum, ...] = ()
    order: tuple[int, ...] = ()
    axes: Axes | None = None
    inv_freq: tuple[float, ...] = field(init=False, repr=False, compare=False)
    attention_factor: float = field(init=False, repr=False, compare=False)
    window: int | None = field(init=False, repr=False, compare=False)
    """The trained window [token] of the schemes that depend on the length of the context, None where none does."""
    _inv_freq: Constants = field(init=False, repr=False, compare=False)
    _real: Constants = field(init=False, repr=False, compare=False)
    _words: Constants = field(init=False, repr=False, compare=False)
    _one_word: Constants = field(init=False, repr=False, compare=False)
    _amplitude: Constants = field(init=False, repr=False, compare=False)
    _axes: Constants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        with plain_torch():
            cpu = torch.device("cpu")
            inv_freq, factor = self._frequencies(cpu, None)
            values = tuple(inv_freq.tolist())
            _check_factor(factor)
            windows = [scheme.window for scheme in self.schemes if scheme.window is not None]
            windows += [part.window for part in self.parts if part.window is not None]
            for length in {
                *windows,
                *(window + 1 for window in windows),
            }:  # where a scheme that depends on the length changes
                _check_factor(self._frequencies(cpu, length)[1])
            high, low = self._turns(inv_freq, cpu, None)
            words = (tuple(high.tolist()), tuple(low.tolist()))
            one_word = tuple(in_one_word(high, low).tolist())
            real = tuple(self._radians(inv_freq, cpu, None).tolist())
        derived = {
            "inv_freq": values,
            "attention_factor": float(factor),
            "window": min(windows) if windows else None,
            "_inv_freq": Constants(values, torch.float32),
            "_real": Constants(real, torch.float64),
            "_words": Constants(words, torch.int64),
            "_one_word": Constants(one_word, torch.int64),
            "_amplitude": Constants((float(factor),), torch.float64),
            "_axes": Constants(self.axes or (), torch.int64),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def turns_per_token(self) -> tuple[Sequence[int], tuple[Sequence[int], Sequence[int]]]:
        """Turns per token as they are without a length: in one word, and in two (high, low); see turns.py."""
        high, low = self._words.values
        return self._one_word.values, (high, low)

    def frequencies(self, device: torch.device, length: Length = None, *, traced: bool | None = None) -> Frequencies:
        """inv_freq float32 (dim/2,) or, for a (batch,) length that matters, (batch, dim/2), and the attention factor with it."""
        if self._fixed(length):
            return self._inv_freq.on(device, traced=traced), self.attention_factor
        return self._frequencies(device, length)

    def radians(self, device: torch.device, length: Length = None) -> Tensor:
        """Radians per token in float64 (float32 on a device without it), interpolation included, (dim/2,) or (batch, dim/2)."""
        return self._radians(self.frequencies(device, length)[0], device, length)

    def cos_sin(
        self,
        positions: Tensor,
        dtype: torch.dtype,
        *,
        coordinates: bool = False,
        length: Length = None,
        decay: Decay | None = None,
        far: bool = False,
        traced: bool = False,
    ) -> CosSin:
        """Tables (..., dim/2) for positions (...), int64 or real, times the attention factor and the decay at these positions.

        coordinates: positions are (..., coordinates); otherwise every coordinate of a position (...) is that number. A (batch,) length
        gives (batch, seq, dim/2) for positions of one row or of as many. far: some |position| exceeds 2^31, where one word of the
        angle is not enough.
        """
        fixed, device = self._fixed(length), positions.device
        real = positions.is_floating_point()
        inv_freq, factor = self.frequencies(device, length, traced=traced)
        if self.angles == "exact" and not real:
            axes = self._axes.on(device, traced=traced) if coordinates else None
            amplitude = None if not fixed or traced else self._amplitude.on(device)
            near = dtype != torch.float64 and not far
            if fixed and near:
                high, low = self._one_word.on(device, traced=traced), None
            else:
                high, low = self.words(inv_freq, length, traced=traced)
                high, low = (in_one_word(high, low), None) if near else (high, low)
            return exact.cos_sin(
                positions,
                high,
                low,
                dtype,
                axes=axes,
                factor=factor,
                amplitude=amplitude,
                decay=decay,
                traced=traced,
            )
        if isinstance(factor, Tensor) and factor.ndim:
            factor = factor[:, None, None]
        along = self.along(positions, traced=traced) if coordinates else positions[..., None]

        def amplitude_at(positions: Tensor) -> float | Tensor:
            return factor if decay is None else decay.at(positions[..., 0]) * factor

        if self.angles == "float32":
            return eager.float32_cos_sin(along, self.divided(inv_freq, length), dtype, amplitude_at, traced=traced)
        radians = self._real.on(device, traced=traced) if fixed else self._radians(inv_freq, device, length)
        rows = radians.ndim == 2  # one for each row of the batch: (batch, 1, dim/2) beside (batch, seq) positions
        return eager.real_cos_sin(along, radians[:, None] if rows else radians, dtype, amplitude_at, traced=traced)

    def along(self, positions: Tensor, *, traced: bool = False) -> Tensor:
        """What each plane reads of positions (..., coordinates): (..., dim/2)."""
        return exact.read_along(positions, self._axes.on(positions.device, traced=traced))

    def words(self, inv_freq: Tensor, length: Length = None, *, traced: bool = False) -> tuple[Tensor, Tensor]:
        """The two words of turns per token of what frequencies() gave: (dim/2,), or (batch, 1, dim/2) where it has a row per batch."""
        if self._fixed(length):
            high, low = self._words.on(inv_freq.device, traced=traced).unbind(0)
            return high, low
        high, low = self._turns(inv_freq, inv_freq.device, length)
        return (high[:, None], low[:, None]) if high.ndim == 2 else (high, low)

    def divided(self, inv_freq: Tensor, length: Length = None) -> Tensor:
        """The same in radians, float32, for the arithmetic of transformers."""
        radians = self._divided(inv_freq, inv_freq.device, length)
        return radians[:, None] if radians.ndim == 2 else radians

    def _fixed(self, length: Length) -> bool:
        """True if the frequencies are those made once, whatever the length of the context."""
        return length is None or self.window is None

    def _made_from(self) -> str:
        """Base and schemes, for errors."""
        schemes = "".join(f" and {type(scheme).__name__}" for scheme in self.schemes)
        return f"base {self.base}{schemes}"

    def _frequencies(self, device: torch.device, length: Length) -> Frequencies:
        if self.parts:
            made = [part.frequencies(device, length) for part in self.parts]
            return self._side_by_side([inv_freq for inv_freq, _ in made]), made[0][1]
        if self.given is not None:
            return torch.tensor(self.given, dtype=torch.float32, device=device), self.given_factor
        assert self.base is not None
        formula = in_float32 if self.angles == "float32" else in_float64
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

    # --- three ways from inv_freq, in float32, to what positions are multiplied by -------------------------------------------------------

    def _turns(self, inv_freq: Tensor, device: torch.device, length: Length) -> tuple[Tensor, Tensor]:
        """The two words of turns per token."""
        if self.parts:
            made = [part._turns(part.frequencies(device, length)[0], device, length) for part in self.parts]
            return self._side_by_side([high for high, _ in made]), self._side_by_side([low for _, low in made])
        if self.double and self.given is not None:
            high, low = turns_of_numbers(self.given, self.divisor)
            return torch.tensor(high, device=device), torch.tensor(low, device=device)
        return turns_per_token(inv_freq, self.divisor)

    def _radians(self, inv_freq: Tensor, device: torch.device, length: Length) -> Tensor:
        """Radians per token in float64 (float32 without it), for real positions."""
        work = torch.float64 if has_float64(device) else torch.float32
        if self.parts:
            return self._side_by_side(
                [part._radians(part.frequencies(device, length)[0], device, length) for part in self.parts]
            )
        if self.double:
            inv_freq = torch.tensor(self.given, dtype=work, device=device)
        return inv_freq.to(work) / self.divisor

    def _divided(self, inv_freq: Tensor, device: torch.device, length: Length) -> Tensor:
        """Radians per token in float32, for the arithmetic of transformers."""
        if self.parts:
            return self._side_by_side(
                [part._divided(part.frequencies(device, length)[0], device, length) for part in self.parts]
            )
        return inv_freq if self.divisor == 1.0 else inv_freq / self.divisor

    def _side_by_side(self, made: list[Tensor]) -> Tensor:
        """What the parts made, (planes,) or (batch, planes) each, in the order of this spectrum's planes."""
        batch = max((t.shape[0] for t in made if t.ndim == 2), default=0)
        whole = torch.cat([t.expand(batch, -1) if batch else t for t in made], -1)
        return whole[..., torch.tensor(self.order, device=whole.device)] if self.order else whole


def _check_factor(factor: float | Tensor) -> None:
    """Raise where cos and sin times the attention factor would overflow float32 tables."""
    if not 0.0 < float(factor) <= torch.finfo(torch.float32).max:
        raise ValueError(f"the attention factor must be positive and finite in float32, got {float(factor)}")


def side_by_side(parts: tuple[Spectrum, ...], coordinates: Axes, *, alternating: bool) -> Spectrum:
    """Spectra of one coordinate each as one of several. coordinates: which one each part reads.

    alternating: the first planes of all parts come first, then the second ones; otherwise all planes of a part together. ValueError for
    parts that differ in their arithmetic or attention factor, and for alternating parts of different size.
    """
    if len({part.angles for part in parts}) > 1:
        raise ValueError("the parts must have one arithmetic of angles: all exact or all float32")
    factors = [part.attention_factor for part in parts]
    lengths = [part.window + more for part in parts if part.window is not None for more in (0, 1)]
    for length in (None, *lengths):
        factors = [float(part.frequencies(torch.device("cpu"), length)[1]) for part in parts]
        if len(set(factors)) > 1:
            raise ValueError(
                f"the parts have different attention factors {tuple(factors)}, and a head has one: give "
                f"attention_factor=1.0 to the schemes of the parts"
            )
    planes = [len(part.inv_freq) for part in parts]
    if alternating and len(set(planes)) > 1:
        raise ValueError(f"alternating parts must have one size, got {tuple(2 * n for n in planes)} channels")
    axes = tuple(axis for axis, n in zip(coordinates, planes, strict=True) for _ in range(n))
    order = tuple(part * planes[0] + j for j in range(planes[0]) for part in range(len(parts))) if alternating else ()
    if order:
        axes = tuple(axes[i] for i in order)
    return Spectrum(2 * sum(planes), None, angles=parts[0].angles, parts=parts, order=order, axes=axes)
