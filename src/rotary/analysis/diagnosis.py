"""What a scheme does to the planes, as a value: wavelengths, turns, what was never seen whole, how far it reaches, and warnings in words.

A plane whose wavelength exceeds the trained window never came full circle in training: its later angles are unknown to the model. A
scheme reaches as far as no such plane turns further than it did in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .._angles.frequencies import Spectrum
from .._angles.xpos import XPos
from ..scaling import Scheme

_SAME = 2.0**-20
_FURTHER = 2.0**-10  # of a context. Resonance rounds wavelengths to whole tokens, and moves the reach by less.


@dataclass(frozen=True)
class Plane:
    """One plane: its frequency before and after the schemes [rad/token], and the trained window [token]."""

    index: int
    trained: float
    inv_freq: float
    window: int

    @property
    def wavelength(self) -> float:
        """[token] after the schemes; inf for a plane at rest."""
        return 2 * math.pi / self.inv_freq if self.inv_freq else math.inf

    @property
    def trained_wavelength(self) -> float:
        return 2 * math.pi / self.trained if self.trained else math.inf

    @property
    def trained_turns(self) -> float:
        """Turns inside the trained window, before the schemes."""
        return self.window * self.trained / (2 * math.pi)

    def turns(self, length: int) -> float:
        """Turns inside a context of so many tokens, after the schemes."""
        return length * self.inv_freq / (2 * math.pi)

    @property
    def whole(self) -> bool:
        """Whether training showed every angle of it."""
        return self.trained_turns >= 1.0

    @property
    def slowdown(self) -> float:
        return self.trained / self.inv_freq if self.inv_freq else math.inf

    @property
    def reach(self) -> float:
        """The longest context [token] without an angle that training did not show; inf where it showed all, or at rest."""
        return math.inf if self.whole else self.window * self.slowdown


@dataclass(frozen=True)
class Diagnosis:
    """A spectrum before and after its schemes, in a context of `length` tokens after a trained window of `window`.

    treatment(plane): "kept", "interpolated" (slowed by the most that any turning plane is slowed), "ramped" (between kept and
        interpolated ones), "slowed" (where there are no such two), "quickened", "at rest".
    reach [token]: the longest context without an angle that is new to the model.
    warnings: in words, where a choice is known to hurt.
    """

    name: str
    dim: int
    base: float
    scaling: tuple[Scheme, ...]
    window: int
    length: int
    scale_base: float | None = None
    planes: tuple[Plane, ...] = field(init=False, repr=False)
    attention_factor: float = field(init=False)

    def __post_init__(self) -> None:
        plain = Spectrum(self.dim, self.base)
        inv_freq, factor = Spectrum(self.dim, self.base, self.scaling).frequencies(torch.device("cpu"), self.length)
        pairs = enumerate(zip(plain.inv_freq, inv_freq.tolist(), strict=True))
        object.__setattr__(self, "planes", tuple(Plane(i, a, b, self.window) for i, (a, b) in pairs))
        object.__setattr__(self, "attention_factor", float(factor))

    @property
    def whole(self) -> int:
        """How many planes came full circle in training."""
        return sum(plane.whole for plane in self.planes)

    @property
    def critical_dimension(self) -> int:
        """Channels of those planes: 2 ceil(dim/2 log_base(window / 2 pi)), within 0 .. dim (Liu et al. 2023, arXiv:2310.05209)."""
        return 2 * self.whole

    @property
    def slowest(self) -> float:
        """The most that a plane that still turns is slowed down."""
        return max((plane.slowdown for plane in self.planes if plane.inv_freq), default=1.0)

    def treatment(self, plane: Plane) -> str:
        if not plane.inv_freq:
            return "at rest"
        if abs(plane.slowdown - 1.0) <= _SAME:
            return "kept"
        if plane.slowdown < 1.0:
            return "quickened"
        if plane.slowdown >= self.slowest * (1.0 - _SAME):
            return "interpolated"
        return "ramped" if self._by_parts else "slowed"

    @property
    def _by_parts(self) -> bool:
        """Whether several of the fastest planes are kept and several of the slowest are slowed alike."""
        fast, slow = self.planes[:2], self.planes[-2:]
        alike = all(plane.slowdown >= self.slowest * (1.0 - _SAME) for plane in slow)
        return alike and all(abs(plane.slowdown - 1.0) <= _SAME for plane in fast)

    def treatments(self) -> list[tuple[str, int, int]]:
        """(treatment, first plane, last plane) of each run of neighbours treated alike."""
        runs: list[tuple[str, int, int]] = []
        for plane in self.planes:
            word = self.treatment(plane)
            if runs and runs[-1][0] == word:
                runs[-1] = (word, runs[-1][1], plane.index)
            else:
                runs.append((word, plane.index, plane.index))
        return runs

    @property
    def reach(self) -> float:
        return min(plane.reach for plane in self.planes)

    @property
    def warnings(self) -> tuple[str, ...]:
        said: list[str] = []
        if sum(getattr(scheme, "factor", None) not in (None, 1.0) for scheme in self.scaling) > 1:
            names = " and ".join(type(scheme).__name__ for scheme in self.scaling)
            said.append(
                f"{names} both extend the context: the planes are slowed down twice, {self.slowest:.4g} times at most"
            )
        if self.reach < self.length * (1.0 - _FURTHER):
            first = min(self.planes, key=lambda plane: plane.reach)
            new = sum(plane.reach < self.length * (1.0 - _FURTHER) for plane in self.planes)
            short, remedy = "without a scheme it does", f"extend it {self.length / self.window:.4g} times"
            if self.scaling:
                short, remedy = "the scheme does", "choose a larger factor"
            said.append(
                f"{new} of {self.dim // 2} planes turn to angles that training never showed, plane {first.index} from token "
                f"{self.reach:,.0f} on: {short} not reach {self.length:,} tokens; unless the model was trained further at that length, "
                f"{remedy}"
            )
        dynamic = [type(scheme).__name__ for scheme in self.scaling if scheme.window is not None]
        if dynamic:
            said.append(
                f"{' and '.join(dynamic)} depends on the length, shown for {self.length:,} tokens: keys cached at another length do not "
                f"fit; hold length= constant through a generation"
            )
        if self.scale_base is not None:
            said += self._xpos_warnings(self.scale_base)
        return tuple(said)

    def _xpos_warnings(self, scale_base: float) -> list[str]:
        xpos = XPos(self.dim, scale_base)
        said = [
            f"xPos with scale_base {scale_base:g} leaves {str(dtype).removeprefix('torch.')} at position {limit:,}, before "
            f"{self.length:,}; a scale_base of {math.ceil(scale_base * self.length / limit):,} fits"
            for dtype in (torch.float16, torch.bfloat16)
            if (limit := xpos.furthest(dtype)) < self.length
        ]
        fades = self.length / scale_base * -math.log(xpos.zeta[0])
        if fades > math.log(1e4):
            said.append(
                f"xPos with scale_base {scale_base:g} fades the fastest plane to {math.exp(-fades):.1g} over {self.length:,} tokens"
            )
        return said
