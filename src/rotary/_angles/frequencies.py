"""The frequencies of a module: base, dim and schemes -> inv_freq [rad/token] -> cos and sin at given positions.

`inv_freq` in float32 is the definition of the frequencies: it is what users see and what checkpoints were trained with, within an
ulp. Frequencies that the caller gives in float64 stay float64. All later arithmetic is exact for these numbers (angles="exact"), or is
the float32 arithmetic of transformers, bit for bit (angles="float32").
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

    base: of the geometric progression. None where the frequencies are `values`, with values_factor as the attention factor,
        and where `parts` are put side by side.
    divisor: divides positions (position interpolation); it is not in inv_freq, as documented.
    values: frequencies [rad/token] that no base makes: float32 numbers, or float64 ones where `double`.
    parts: spectra of one coordinate each; order: plane j of the whole is plane order[j] of all parts, counted through.
    axes: the coordinate that each plane reads; None: positions have no coordinates.
    """

    dim: int
    base: float | None
    schemes: tuple[Scheme, ...] = ()
    divisor: float = 1.0
    angles: AngleArithmetic = "exact"
    values: tuple[float, ...] | None = None
    values_factor: float = 1.0
    double: bool = False
    parts: tuple[Spectrum, ...] = ()
    order: tuple[int, ...] = ()
    axes: Axes | None = None
    inv_freq: tuple[float, ...] = field(init=False, repr=False, compare=False)
    attention_factor: float = field(init=False, repr=False, compare=False)
    window: int | None = field(init=False, repr=False, compare=False)
    """The trained window [token] of the schemes that depend on the length of the context, None where none does."""
    _inv_freq: Constants = field(init=False, repr=False, compare=False)
    _radians_in_float64: Constants = field(init=False, repr=False, compare=False)
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
            # A scheme that depends on the length changes just past its window: check its factor on both sides.
            for length in {*windows, *(window + 1 for window in windows)}:
                _check_factor(self._frequencies(cpu, length)[1])
            high, low = self._turns(inv_freq, cpu, None)
            words = (tuple(high.tolist()), tuple(low.tolist()))
            one_word = tuple(in_one_word(high, low).tolist())
            radians = tuple(self._radians(inv_freq, cpu, None).tolist())
        derived = {
            "inv_freq": values,
            "attention_factor": float(factor),
            "window": min(windows) if windows else None,
            "_inv_freq": Constants(values, torch.float32),
            "_radians_in_float64": Constants(radians, torch.float64),
            "_words": Constants(words, torch.int64),
            "_one_word": Constants(one_word, torch.int64),
            "_amplitude": Constants((float(factor),), torch.float64),
            "_axes": Constants(self.axes or (), torch.int64),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def turns_per_token(self) -> tuple[Sequence[int], tuple[Sequence[int], Sequence[int]]]:
        """Turns per token where no length is given: in one word, and in two (high, low); see turns.py."""
        high, low = self._words.values
        return self._one_word.values, (high, low)

    def frequencies(self, device: torch.device, length: Length = None, *, traced: bool | None = None) -> Frequencies:
        """inv_freq float32 (dim/2,), or (batch, dim/2) for a (batch,) length that a scheme reads, and the attention factor."""
        if self._fixed(length):
            return self._inv_freq.on(device, traced=traced), self.attention_factor
        return self._frequencies(device, length, traced=traced)

    def radians(self, device: torch.device, length: Length = None) -> Tensor:
        """Radians per token in float64 (float32 on a device without float64), interpolation included, (dim/2,) or (batch, dim/2)."""
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

        coordinates: positions are (..., coordinates); otherwise each coordinate is the position. A (batch,) length gives
        (batch, seq, dim/2), for positions (seq,), (1, seq) or (batch, seq). far: some |position| exceeds 2^31, where one word of the
        angle is not enough.
        """
        fixed, device = self._fixed(length), positions.device
        real = positions.is_floating_point()
        inv_freq, factor = self.frequencies(device, length, traced=traced)
        if self.angles == "exact" and not real:
            axes = self._axes.on(device, traced=traced) if coordinates else None
            amplitude = None if not fixed or traced else self._amplitude.on(device, traced=False)
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
            return factor if decay is None else decay.at(positions[..., 0], traced=traced) * factor

        if self.angles == "float32":
            return eager.float32_cos_sin(along, self.divided(inv_freq, length), dtype, amplitude_at, traced=traced)
        if fixed:
            radians = self._radians_in_float64.on(device, traced=traced)
        else:
            radians = self._radians(inv_freq, device, length)
        if radians.ndim == 2:  # a row for each entry of the batch, to broadcast against (batch, seq, 1) positions
            radians = radians[:, None]
        return eager.real_cos_sin(along, radians, dtype, amplitude_at, traced=traced)

    def along(self, positions: Tensor, *, traced: bool = False) -> Tensor:
        """The coordinate that each plane reads: positions (..., coordinates) -> (..., dim/2)."""
        return exact.read_along(positions, self._axes.on(positions.device, traced=traced))

    def words(self, inv_freq: Tensor, length: Length = None, *, traced: bool = False) -> tuple[Tensor, Tensor]:
        """The two words of turns per token, (dim/2,), or (batch, 1, dim/2) where inv_freq, as frequencies() returns it, has a batch."""
        if self._fixed(length):
            high, low = self._words.on(inv_freq.device, traced=traced).unbind(0)
            return high, low
        high, low = self._turns(inv_freq, inv_freq.device, length, traced=traced)
        return (high[:, None], low[:, None]) if high.ndim == 2 else (high, low)

    def divided(self, inv_freq: Tensor, length: Length = None) -> Tensor:
        """Radians per token in float32, for the arithmetic of transformers: (dim/2,) or (batch, 1, dim/2), as words()."""
        radians = self._divided(inv_freq, inv_freq.device, length)
        return radians[:, None] if radians.ndim == 2 else radians

    def _fixed(self, length: Length) -> bool:
        """True if the frequencies do not depend on this length: they are computed once, at construction."""
        return length is None or self.window is None

    def _made_from(self) -> str:
        """Base and schemes, for errors."""
        schemes = "".join(f" and {type(scheme).__name__}" for scheme in self.schemes)
        return f"base {self.base}{schemes}"

    def _frequencies(self, device: torch.device, length: Length, *, traced: bool | None = None) -> Frequencies:
        if self.parts:
            frequencies = [part.frequencies(device, length, traced=traced) for part in self.parts]
            return self._side_by_side([inv_freq for inv_freq, _ in frequencies]), frequencies[0][1]
        if self.values is not None:
            return torch.tensor(self.values, dtype=torch.float32, device=device), self.values_factor
        assert self.base is not None
        formula = in_float32 if self.angles == "float32" else in_float64
        try:
            inv_freq, factor = formula(self.base, self.dim, self.schemes, device, length)
        except OverflowError as error:
            raise ValueError(f"{self._made_from()} overflows a float: {error}") from None
        traced = tracing() if traced is None else traced
        if device.type == "cpu" and not traced and not bool(inv_freq.isfinite().all()):
            at = "" if length is None else " at the given length"
            raise ValueError(
                f"frequencies must be finite in float32, got {inv_freq.max().item()} from {self._made_from()}{at}"
            )
        return inv_freq, factor

    # --- from inv_freq, in float32, to the factor of positions: in turns, in float64 radians, in float32 radians --------------------------

    def _turns(
        self, inv_freq: Tensor, device: torch.device, length: Length, *, traced: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """The two words of turns per token."""
        if self.parts:
            words = [
                part._turns(part.frequencies(device, length, traced=traced)[0], device, length, traced=traced)
                for part in self.parts
            ]
            return self._side_by_side([high for high, _ in words]), self._side_by_side([low for _, low in words])
        if self.double and self.values is not None:
            high, low = turns_of_numbers(self.values, self.divisor)
            return torch.tensor(high, device=device), torch.tensor(low, device=device)
        return turns_per_token(inv_freq, self.divisor, traced=traced)

    def _radians(self, inv_freq: Tensor, device: torch.device, length: Length) -> Tensor:
        """Radians per token in float64 (float32 on a device without float64), for real positions."""
        work = torch.float64 if has_float64(device) else torch.float32
        if self.parts:
            return self._side_by_side(
                [part._radians(part.frequencies(device, length)[0], device, length) for part in self.parts]
            )
        if self.double:
            inv_freq = torch.tensor(self.values, dtype=work, device=device)
        return inv_freq.to(work) / self.divisor

    def _divided(self, inv_freq: Tensor, device: torch.device, length: Length) -> Tensor:
        """Radians per token in float32, for the arithmetic of transformers."""
        if self.parts:
            return self._side_by_side(
                [part._divided(part.frequencies(device, length)[0], device, length) for part in self.parts]
            )
        return inv_freq if self.divisor == 1.0 else inv_freq / self.divisor

    def _side_by_side(self, of_parts: list[Tensor]) -> Tensor:
        """The tensors of the parts, (planes,) or (batch, planes) each, as one, in the order of this spectrum's planes."""
        batch = max((t.shape[0] for t in of_parts if t.ndim == 2), default=0)
        whole = torch.cat([t.expand(batch, -1) if batch else t for t in of_parts], -1)
        return whole[..., torch.tensor(self.order, device=whole.device)] if self.order else whole


def _check_factor(factor: float | Tensor) -> None:
    """Raise where cos and sin times the attention factor would overflow float32 tables."""
    if not 0.0 < float(factor) <= torch.finfo(torch.float32).max:
        raise ValueError(f"the attention factor must be positive and finite in float32, got {float(factor)}")


def side_by_side(parts: tuple[Spectrum, ...], coordinates: Axes, *, alternating: bool) -> Spectrum:
    """One spectrum of several coordinates, from parts of one coordinate each. coordinates: the coordinate that each part reads.

    alternating: the first planes of all parts come first, then the second ones; otherwise the planes of each part stay together.
    ValueError for parts that differ in their arithmetic or attention factor, and for alternating parts of different size.
    """
    if len({part.angles for part in parts}) > 1:
        raise ValueError("the parts must have one arithmetic of angles: all exact or all float32")
    lengths = [part.window + more for part in parts if part.window is not None for more in (0, 1)]
    for length in (None, *lengths):
        with plain_torch():
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
