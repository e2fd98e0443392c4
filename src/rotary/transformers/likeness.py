"""compare(): measured frequencies against those of a config: equal, uninitialised memory, rounded, of another base, width or scheme."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..analysis import Diagnosis
from ..config import Arguments
from ..scaling import Gains
from .hypotheses import HYPOTHESES, Comparison, width_of
from .spectra import AGREE, close, falling_at, named, progression, relative, spectrum_of, written

_LONGEST = 2**31
_ROUNDING = {torch.bfloat16: (2.0**-8, 0.0), torch.float16: (2.0**-10, 2.0**-24)}
"""dtype -> the largest error of a cast to it: relative, and absolute, which is the larger one for the slow planes in float16."""


def unwritten(measured: Tensor) -> str | None:
    """The reason why these (planes,) numbers are no frequencies, or None. Uninitialised memory is mostly zeros or tiny numbers, rarely
    NaN."""
    if not bool(measured.isfinite().all()):
        return "some of its frequencies are not finite"
    if not bool(measured.any()):
        return "its frequencies are all zero"
    if bool((measured < 0).any()):
        return f"its frequencies go down to {float(measured.min()):.3g}, below zero"
    if bool((measured[measured > 0] < 1e-30).any()) or bool((measured > 1e4).any()):
        return f"its frequencies run from {float(measured.min()):.3g} to {float(measured.max()):.3g}"
    return None


def half_precision_of(measured: Tensor) -> torch.dtype | None:
    """The half precision in which all (planes,) numbers are exact, as after a cast to it and back, or None. Powers of two, which are exact
    in every dtype, do not count."""
    others = measured[(measured > 0) & (measured.frexp().mantissa != 0.5)]
    for dtype in _ROUNDING:
        if len(others) and torch.equal(measured.to(dtype).to(measured.dtype), measured):
            return dtype
    return None


def compare(measured: Tensor, arguments: Arguments) -> Comparison:
    """How (planes,) frequencies compare with those that a config describes. measured: on the CPU, float64."""
    own = spectrum_of(arguments)[0]
    blank = unwritten(measured)
    if blank is not None:
        return Comparison("uninitialised", blank)
    if len(measured) != len(own):
        return Comparison("width", f"{2 * len(measured)} channels turn; {width_of(arguments)}")
    if close(measured, own, AGREE):
        scheme = f", {named(arguments.scaling)}" if arguments.scaling else ""
        return Comparison("agrees", f"base {written(arguments.base)}{scheme}")
    length = _length(measured, arguments)
    if length is not None:
        or_more = " or more" if close(measured, spectrum_of(arguments, 2 * length)[0], 2 * AGREE) else ""
        text = f"base {written(arguments.base)}, {named(arguments.scaling)} at a length of {length:,} tokens{or_more}"
        return Comparison("agrees", text, length)
    return _disagreeing(measured, arguments, float(relative(measured, own).max()))


def _disagreeing(measured: Tensor, arguments: Arguments, error: float) -> Comparison:
    """What is wrong with frequencies that are not the config's. error: the largest of a plane, relative."""
    dtype, own = half_precision_of(measured), spectrum_of(arguments)[0]
    short, tolerance = str(dtype).removeprefix("torch."), 2 * AGREE
    if dtype is not None:
        eps, least = _ROUNDING[dtype]
        if bool(((measured - own).abs() <= eps * own + least).all()):
            return Comparison("rounded", f"cast to {short}: off by up to {error:.1e}, and each is a number of {short}")
        tolerance = 2 * eps
    for hypothesis in HYPOTHESES:
        comparison = hypothesis(measured, arguments, tolerance)
        if comparison is not None:
            cast = "" if dtype is None else f"; and cast to {short}"
            return comparison._replace(text=comparison.text + cast)
    if _like_memory(measured):
        numbers = ", ".join(f"{value:.3g}" for value in measured[:3].tolist())
        return Comparison("uninitialised", f"its frequencies begin {numbers}, and do not fall as those of a model do")
    return Comparison("scheme", _described(measured, arguments, error))


def _length(measured: Tensor, arguments: Arguments) -> int | None:
    """The length of the context whose frequencies these are, for schemes that depend on it; None if there is none."""
    if all(scheme.window is None for scheme in arguments.scaling):
        return None

    def slowest(length: float) -> float:
        return float(spectrum_of(arguments, math.ceil(length))[0][-1])

    length = math.ceil(falling_at(slowest, float(measured[-1]) * (1.0 + AGREE / 2), 1.0, _LONGEST))
    # For long contexts several lengths give the same float32 numbers: any of them is an answer.
    for candidate in (length, length - 1, length + 1):
        if candidate >= 1 and close(measured, spectrum_of(arguments, candidate)[0], 2 * AGREE):
            return candidate
    return None


def _like_memory(measured: Tensor) -> bool:
    """Whether frequencies do not fall from about 1, as those of models do, so that they may be uninitialised memory."""
    turning = measured[measured > 0]
    return bool((turning.diff() > 0).any()) or float(measured[0]) < 1e-6 or float(measured[0]) > 2 * math.pi


def _described(measured: Tensor, arguments: Arguments, error: float) -> str:
    """Frequencies that no hypothesis predicts, described by the factor of each plane against plain ones of the config's base."""
    expected = f"the config has base {written(arguments.base)}, {named(arguments.scaling)}: off by up to {error:.1e}"
    gains = (measured / progression(arguments.base, arguments.dim, len(measured))).tolist()
    window = arguments.window or arguments.target or 4096
    runs = Diagnosis("measured", arguments.dim, arguments.base, (Gains(gains),), window, window).treatments()
    if len(runs) > 4:
        return f"no base and scheme that is known here gives its frequencies; {expected}"
    planes = ", ".join(f"{first}-{last} {treatment}" for treatment, first, last in runs)
    return f"compared with plain frequencies its planes are {planes}; {expected}"
