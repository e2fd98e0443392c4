"""What measured frequencies look like beside those of a config: equal, unwritten memory, rounded, of another base, width or scheme.

look = compare(inv_freq, arguments)        look.kind, look.text, look.length
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..analysis import Diagnosis
from ..config import Arguments
from ..scaling import Gains
from .hypotheses import HYPOTHESES, Look, width_asked
from .spectra import AGREE, close, falling_at, frequencies, named, powers, relative, written

_LONGEST = 2**31
_GRAINS = {torch.bfloat16: (2.0**-8, 0.0), torch.float16: (2.0**-10, 2.0**-24)}
"""How far a cast moves numbers: relative, and absolute, which counts for the slow planes in float16."""


def unwritten(measured: Tensor) -> str | None:
    """Why these (planes,) numbers are no frequencies at all, or None. Memory that nobody wrote is rarely NaN, mostly zeros or tiny."""
    if not bool(measured.isfinite().all()):
        return "some of its frequencies are not finite"
    if not bool(measured.any()):
        return "its frequencies are all zero"
    if bool((measured < 0).any()):
        return f"its frequencies go down to {float(measured.min()):.3g}, below zero"
    if bool((measured[measured > 0] < 1e-30).any()) or bool((measured > 1e4).any()):
        return f"its frequencies run from {float(measured.min()):.3g} to {float(measured.max()):.3g}"
    return None


def grain(measured: Tensor) -> torch.dtype | None:
    """The half precision whose grain all (planes,) numbers have, as after a cast there and back, or None. Powers of two have any."""
    telling = measured[(measured > 0) & (measured.frexp().mantissa != 0.5)]
    for dtype in _GRAINS:
        if len(telling) and torch.equal(measured.to(dtype).to(measured.dtype), measured):
            return dtype
    return None


def compare(measured: Tensor, arguments: Arguments) -> Look:
    """What (planes,) frequencies look like beside those that a config describes. measured: on the CPU, float64."""
    own = frequencies(arguments)[0]
    blank = unwritten(measured)
    if blank is not None:
        return Look("uninitialised", blank)
    if len(measured) != len(own):
        return Look("width", f"{2 * len(measured)} channels turn; {width_asked(arguments)}")
    if close(measured, own, AGREE):
        scheme = f", {named(arguments.scaling)}" if arguments.scaling else ""
        return Look("agrees", f"base {written(arguments.base)}{scheme}")
    length = _length(measured, arguments)
    if length is not None:
        more = " or more" if close(measured, frequencies(arguments, 2 * length)[0], 2 * AGREE) else ""
        text = f"base {written(arguments.base)}, {named(arguments.scaling)} at a length of {length:,} tokens{more}"
        return Look("agrees", text, length)
    return _disagreeing(measured, arguments, float(relative(measured, own).max()))


def _disagreeing(measured: Tensor, arguments: Arguments, error: float) -> Look:
    """error: the largest of a plane, relative."""
    dtype, own = grain(measured), frequencies(arguments)[0]
    short, tolerance = str(dtype).removeprefix("torch."), 2 * AGREE
    if dtype is not None:
        eps, least = _GRAINS[dtype]
        if bool(((measured - own).abs() <= eps * own + least).all()):
            return Look("rounded", f"cast to {short}: off by up to {error:.1e}, and each has the grain of {short}")
        tolerance = 2 * eps
    for hypothesis in HYPOTHESES:
        look = hypothesis(measured, arguments, tolerance)
        if look is not None:
            return look if dtype is None else Look(look.kind, f"{look.text}; and cast to {short}")
    if _like_memory(measured):
        numbers = ", ".join(f"{value:.3g}" for value in measured[:3].tolist())
        return Look("uninitialised", f"its frequencies begin {numbers}, and do not fall as those of a model do")
    return Look("scheme", _described(measured, arguments, error))


def _length(measured: Tensor, arguments: Arguments) -> int | None:
    """The length of the context whose frequencies these are, for schemes that depend on it; None if there is none."""
    if all(scheme.window is None for scheme in arguments.scaling):
        return None

    def slowest(length: float) -> float:
        return float(frequencies(arguments, math.ceil(length))[0][-1])

    length = math.ceil(falling_at(slowest, float(measured[-1]) * (1.0 + AGREE / 2), 1.0, _LONGEST))
    # float32 does not resolve every length far out: any that gives these numbers will do
    for candidate in (length, length - 1, length + 1):
        if candidate >= 1 and close(measured, frequencies(arguments, candidate)[0], 2 * AGREE):
            return candidate
    return None


def _like_memory(measured: Tensor) -> bool:
    """Whether frequencies do not fall from about one, as those of models do."""
    turning = measured[measured > 0]
    return bool((turning.diff() > 0).any()) or float(measured[0]) < 1e-6 or float(measured[0]) > 2 * math.pi


def _described(measured: Tensor, arguments: Arguments, error: float) -> str:
    """Beside plain frequencies of the config's base, by the diagnosis of `rotary show`."""
    asked = f"the config has base {written(arguments.base)}, {named(arguments.scaling)}: off by up to {error:.1e}"
    gains = (measured / powers(arguments.base, arguments.dim, len(measured))).tolist()
    window = arguments.window or arguments.target or 4096
    runs = Diagnosis("measured", arguments.dim, arguments.base, (Gains(gains),), window, window).treatments()
    if len(runs) > 4:
        return f"no base and scheme that is known here gives its frequencies; {asked}"
    planes = ", ".join(f"{first}-{last} {treatment}" for treatment, first, last in runs)
    return f"beside plain frequencies its planes are {planes}; {asked}"
