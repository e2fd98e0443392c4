"""Diagnosis: what schemes do to each plane of a spectrum, as numbers, and warnings about choices that are known to harm a model.

A plane whose wavelength exceeds the trained window makes less than a full turn in training, so its later angles are new to the model. The
reach of a scheme is the longest context in which no such plane turns further than it did in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import _checks
from .._angles.frequencies import Spectrum
from .._angles.xpos import XPos
from ..scaling import Scheme
from ..scaling.scheme import as_schemes

# Relative tolerances: of slowdowns that count as equal, and of a reach that falls short of a context. Resonance rounds wavelengths to
# whole tokens, which moves the reach by less than the second.
_EQUAL = 2.0**-20
_SHORT = 2.0**-10


@dataclass(frozen=True)
class Plane:
    """One plane. trained, inv_freq: its frequency without and with the schemes [rad/token]. window: the trained window [token].

    >>> plane = Plane(index=63, trained=1e-4, inv_freq=0.25e-4, window=4096)
    >>> round(plane.wavelength), plane.whole, round(plane.reach)
    (251327, False, 16384)
    """

    index: int
    trained: float
    inv_freq: float
    window: int

    @property
    def wavelength(self) -> float:
        """With the schemes [token]; inf for a plane at rest."""
        return 2 * math.pi / self.inv_freq if self.inv_freq else math.inf

    @property
    def trained_wavelength(self) -> float:
        """Without the schemes [token]."""
        return 2 * math.pi / self.trained if self.trained else math.inf

    @property
    def trained_turns(self) -> float:
        """Turns within the trained window, without the schemes."""
        return self.window * self.trained / (2 * math.pi)

    def turns(self, length: int) -> float:
        """Turns within a context of `length` tokens, with the schemes."""
        return length * self.inv_freq / (2 * math.pi)

    @property
    def whole(self) -> bool:
        """Whether every angle occurred in training: the trained window has at least one turn."""
        return self.trained_turns >= 1.0

    @property
    def slowdown(self) -> float:
        """The frequency without the schemes over the frequency with them; inf for a plane at rest."""
        return self.trained / self.inv_freq if self.inv_freq else math.inf

    @property
    def reach(self) -> float:
        """The longest context [token] without an angle that did not occur in training; inf if all occurred, and at rest."""
        return math.inf if self.whole else self.window * self.slowdown


@dataclass(frozen=True)
class Diagnosis:
    """A spectrum with and without schemes.

    name: a label. dim: rotated channels. base: of the frequencies. scaling: the schemes, left to right.
    window: the trained window [token]. length: the context that is diagnosed [token]. scale_base: of xPos, None without xPos.
    published: whether a model was published with these schemes for this context, so that new angles there are a note, no warning.
    planes: dim/2 of them, fastest first. attention_factor: what cos and sin are multiplied by.

    TypeError or ValueError for arguments that are none of these, and ValueError if the schemes do not accept dim.

    >>> from rotary.scaling import YaRN
    >>> diagnosis = Diagnosis("yarn", 128, 1e4, (YaRN(4.0, 4096),), window=4096, length=32768)
    >>> diagnosis.treatments()
    [('kept', 0, 20), ('ramped', 21, 45), ('interpolated', 46, 63)]
    >>> round(diagnosis.reach)
    16384
    >>> print(diagnosis.warnings[0][:76])
    18 of 64 planes reach angles that did not occur in training, plane 46 from t
    """

    name: str
    dim: int
    base: float
    scaling: tuple[Scheme, ...]
    window: int
    length: int
    scale_base: float | None = None
    published: bool = False
    planes: tuple[Plane, ...] = field(init=False, repr=False)
    attention_factor: float = field(init=False)

    def __post_init__(self) -> None:
        _checks.text("name", self.name, "yarn")
        _checks.even_dim(self.dim)
        _checks.number("base", self.base)
        object.__setattr__(self, "scaling", as_schemes(self.scaling))
        for name in ("window", "length"):
            _checks.count(name, getattr(self, name))
        if self.scale_base is not None:
            _checks.number("scale_base", self.scale_base)
        _checks.flag("published", self.published)
        plain = Spectrum(self.dim, self.base)
        inv_freq, factor = Spectrum(self.dim, self.base, self.scaling).frequencies(torch.device("cpu"), self.length)
        pairs = enumerate(zip(plain.inv_freq, inv_freq.tolist(), strict=True))
        object.__setattr__(self, "planes", tuple(Plane(i, a, b, self.window) for i, (a, b) in pairs))
        object.__setattr__(self, "attention_factor", float(factor))

    @property
    def whole(self) -> int:
        """How many planes make at least one turn within the trained window."""
        return sum(plane.whole for plane in self.planes)

    @property
    def critical_dimension(self) -> int:
        """Channels of those planes: 2 ceil(dim/2 log_base(window / 2 pi)), within 0 .. dim (Liu et al. 2023, arXiv:2310.05209)."""
        return 2 * self.whole

    @property
    def slowest(self) -> float:
        """The largest slowdown of a plane that is not at rest."""
        return max((plane.slowdown for plane in self.planes if plane.inv_freq), default=1.0)

    def treatment(self, plane: Plane) -> str:
        """What the schemes do to a plane.

        "kept"; "interpolated", slowed down by the largest factor; "ramped", by less, in a spectrum whose fastest planes are kept and
        whose slowest are interpolated; "slowed", by less, in any other; "quickened"; "at rest".
        """
        if not plane.inv_freq:
            return "at rest"
        if abs(plane.slowdown - 1.0) <= _EQUAL:
            return "kept"
        if plane.slowdown < 1.0:
            return "quickened"
        if plane.slowdown >= self.slowest * (1.0 - _EQUAL):
            return "interpolated"
        return "ramped" if self._by_parts else "slowed"

    @property
    def _by_parts(self) -> bool:
        """Whether the two fastest planes are kept and the two slowest are slowed down equally."""
        fast, slow = self.planes[:2], self.planes[-2:]
        interpolated = all(plane.slowdown >= self.slowest * (1.0 - _EQUAL) for plane in slow)
        return interpolated and all(abs(plane.slowdown - 1.0) <= _EQUAL for plane in fast)

    def treatments(self) -> list[tuple[str, int, int]]:
        """(treatment, first plane, last plane) of each run of planes with equal treatment."""
        runs: list[tuple[str, int, int]] = []
        for plane in self.planes:
            treatment = self.treatment(plane)
            if runs and runs[-1][0] == treatment:
                runs[-1] = (treatment, runs[-1][1], plane.index)
            else:
                runs.append((treatment, plane.index, plane.index))
        return runs

    @property
    def reach(self) -> float:
        """The longest context [token] in which no plane reaches an angle that did not occur in training."""
        return min(plane.reach for plane in self.planes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is known to harm a model with these schemes at this length, one sentence each."""
        warnings = [*self._stacking_warnings(), *self._reach_warnings()]
        dynamic = [type(scheme).__name__ for scheme in self.scaling if scheme.window is not None]
        if dynamic:
            warnings.append(
                f"{' and '.join(dynamic)} depends on the length, shown for {self.length:,} tokens: keys cached at another length do not "
                f"match; keep length= constant during a generation"
            )
        if self.scale_base is not None:
            warnings += self._xpos_warnings(self.scale_base)
        return tuple(warnings)

    def _stacking_warnings(self) -> list[str]:
        if sum(getattr(scheme, "factor", None) not in (None, 1.0) for scheme in self.scaling) <= 1:
            return []
        names = " and ".join(type(scheme).__name__ for scheme in self.scaling)
        return [f"{names} both extend the context: the planes are slowed down twice, {self.slowest:.4g} times at most"]

    def _reach_warnings(self) -> list[str]:
        limit = self.length * (1.0 - _SHORT)
        if self.reach >= limit or (self.published and self.scaling):
            return []
        first = min(self.planes, key=lambda plane: plane.reach)
        new = sum(plane.reach < limit for plane in self.planes)
        short, remedy = "without a scheme it does", f"extend it {self.length / self.window:.4g} times"
        if self.scaling:
            short, remedy = "the scheme does", "choose a larger factor"
        return [
            f"{new} of {self.dim // 2} planes reach angles that did not occur in training, plane {first.index} from token "
            f"{self.reach:,.0f} on: {short} not reach {self.length:,} tokens; unless the model was trained further at that length, "
            f"{remedy}"
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts that are no faults, one sentence each: how far the scheme of a published model reaches without further training."""
        if not (self.published and self.scaling) or self.reach >= self.length * (1.0 - _SHORT):
            return ()
        return (
            f"from token {self.reach:,.0f} on some planes reach angles that the trained window did not have; the model was published with "
            f"this scheme for {self.length:,} tokens, and trained at that length",
        )

    def _xpos_warnings(self, scale_base: float) -> list[str]:
        xpos, as_long = XPos(self.dim, scale_base), XPos(self.dim, float(self.length))
        warnings = [
            f"xPos with scale_base {scale_base:g} leaves the range of {str(dtype).removeprefix('torch.')} "
            + (f"at position {limit:,}, before {self.length:,}" if limit else "at the first token")
            + f"; a scale_base of {math.ceil(self.length * self.length / as_long.furthest(dtype)):,} stays in it"
            for dtype in (torch.float16, torch.bfloat16)
            if (limit := xpos.furthest(dtype)) < self.length
        ]
        decay = self.length / scale_base * -math.log(xpos.zeta[0])
        if decay > math.log(1e4):
            warnings.append(
                f"xPos with scale_base {scale_base:g} attenuates the fastest plane to {math.exp(-decay):.1g} over {self.length:,} tokens"
            )
        return warnings


def check_diagnoses(name: str, diagnoses: Any) -> None:
    """TypeError or ValueError unless this is a sequence of at least one Diagnosis, all of one dim."""
    for i, diagnosis in enumerate(_checks.list_of(name, diagnoses, "rotary.analysis.Diagnosis")):
        _checks.instance(f"{name}[{i}]", diagnosis, Diagnosis, "a rotary.analysis.Diagnosis")
    if not diagnoses:
        raise ValueError(f"{name} must have at least one rotary.analysis.Diagnosis")
    for i, diagnosis in enumerate(diagnoses):
        if diagnosis.dim != diagnoses[0].dim:
            raise ValueError(
                f"{name}[{i}] has dim {diagnosis.dim} and {name}[0] {diagnoses[0].dim}: their planes cannot be compared; take one dim"
            )
