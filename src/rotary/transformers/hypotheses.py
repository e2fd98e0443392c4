"""Hypotheses: ways in which frequencies come to differ from their config, each of which predicts all planes from one or two of them.

A hypothesis takes (measured, arguments, tolerance): (planes,) float64 frequencies, as many as the config has planes; what the config
describes; and the relative tolerance. It returns a Comparison if it predicts every plane, and else None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from torch import Tensor

from ..config import Arguments
from ..scaling import NTK, Linear, Llama3, NTKMixed, Scheme, YaRN
from .findings import Kind
from .spectra import AGREE, close, falling_at, named, progression, spectrum, written


class Comparison(NamedTuple):
    """How frequencies compare with those of a config. kind, text: as in Finding. length: the context [token] whose frequencies these are,
    for schemes that depend on it; None within the trained window."""

    kind: Kind
    text: str
    length: int | None = None


Hypothesis = Callable[[Tensor, Arguments, float], "Comparison | None"]


def _scheme_lost(measured: Tensor, arguments: Arguments, tolerance: float) -> Comparison | None:
    if arguments.scaling and close(measured, progression(arguments.base, arguments.dim, len(measured)), tolerance):
        return Comparison("scheme", f"no scheme; the config has {named(arguments.scaling)}")
    return None


def _over_the_head(measured: Tensor, arguments: Arguments, tolerance: float) -> Comparison | None:
    """The planes of a partial rotation computed over the width of the whole head (pie #603)."""
    head = progression(arguments.base, arguments.head_dim, len(measured))
    if arguments.dim < arguments.head_dim and close(measured, head, tolerance):
        text = f"its frequencies are the first {len(measured)} of a rotation of all {arguments.head_dim} channels of a head"
        return Comparison("width", f"{text}; {width_of(arguments)}")
    return None


def _other_base(measured: Tensor, arguments: Arguments, tolerance: float) -> Comparison | None:
    """Another base, with the config's schemes or without any."""
    planes, first = len(measured), float(measured[0])
    if planes < 2 or not measured.all() or not 0.9 < first < 1.1:
        return None
    expected = f"the config has {written(arguments.base)}"
    base = float(measured[-1]) ** (-planes / (planes - 1))
    if base > 1.0 and close(measured, progression(base, arguments.dim, planes), tolerance):
        base = _likely(base, tolerance)
        scheme = f" without a scheme; the config has {named(arguments.scaling)} of {written(arguments.base)}"
        return Comparison(
            "base", f"base {written(base)}{scheme if arguments.scaling else f'; {expected}{_as_ntk(base, arguments)}'}"
        )
    if arguments.scaling:
        base = (first / float(measured[1])) ** planes
        # Two neighbouring planes alone give the base with planes times the error of one.
        for candidate in (_likely(base, tolerance * planes), base):
            if candidate > 1.0 and close(measured, spectrum(candidate, arguments.dim, arguments.scaling)[0], tolerance):
                return Comparison("base", f"base {written(candidate)}; {expected}")
    return None


def _likely(base: float, tolerance: float) -> float:
    """The number of the fewest digits within that relative tolerance of a measured base."""
    rounded = (float(f"{base:.{digits}g}") for digits in range(1, 7))
    return next((number for number in rounded if abs(number - base) <= tolerance * base / 2), base)


def _as_ntk(base: float, arguments: Arguments) -> str:
    """A note if NTK with a whole factor, which is likely, changes the config's base to this one."""
    factor = (base / arguments.base) ** ((arguments.dim - 2) / arguments.dim) if arguments.dim > 2 else 1.0
    return (
        f", of which NTK by {round(factor)} makes this" if factor > 1.5 and abs(factor - round(factor)) < 1e-3 else ""
    )


def _other_factor(measured: Tensor, arguments: Arguments, tolerance: float) -> Comparison | None:
    """The config's own scheme with another factor."""
    if (
        len(arguments.scaling) != 1
        or arguments.scaling[0].window is not None
        or not hasattr(arguments.scaling[0], "factor")
    ):
        return None
    scheme: Any = arguments.scaling[0]

    def with_factor(factor: float) -> Scheme:
        return cast(Scheme, dataclasses.replace(scheme, factor=factor))

    other = _with_some_factor(with_factor, measured, arguments, tolerance)
    return None if other is None else Comparison("scheme", f"{named((other,))}; the config has {named((scheme,))}")


def _foreign_scheme(measured: Tensor, arguments: Arguments, tolerance: float) -> Comparison | None:
    """A scheme that the config does not have."""
    for make in _common_schemes(arguments):
        scheme = _with_some_factor(make, measured, arguments, tolerance)
        if scheme is not None:
            return Comparison("scheme", f"{named((scheme,))}; the config has {named(arguments.scaling)}")
    return None


def _common_schemes(arguments: Arguments) -> Iterator[Callable[[float], Scheme]]:
    """Schemes by factor, for the windows that models were trained with."""
    yield Linear
    yield NTK
    yield NTKMixed
    for window in dict.fromkeys((arguments.window or 8192, 4096, 8192, 32768)):
        yield lambda factor, window=window: YaRN(factor, window)
        yield lambda factor, window=window: Llama3(factor, window)


def _with_some_factor(
    make: Callable[[float], Scheme], measured: Tensor, arguments: Arguments, tolerance: float
) -> Scheme | None:
    """The scheme whose factor gives these frequencies, rounded to five digits; None if none does."""
    last = int(measured.nonzero()[-1])

    def slowest(factor: float) -> float:
        return float(spectrum(arguments.base, arguments.dim, (make(factor),))[0][last])

    try:
        factor = float(f"{falling_at(slowest, float(measured[last]), 1.0, 2.0**20):.5g}")
        expected = spectrum(arguments.base, arguments.dim, (make(factor),))[0]
    except (TypeError, ValueError):  # too few planes, or the wrong number of factors
        return None
    return make(factor) if close(measured, expected, max(tolerance, 2 * AGREE)) else None


def width_of(arguments: Arguments) -> str:
    """The config's widths, for messages."""
    return f"the config has {arguments.dim} of {arguments.head_dim}"


HYPOTHESES: tuple[Hypothesis, ...] = (_scheme_lost, _over_the_head, _other_base, _other_factor, _foreign_scheme)
"""The hypotheses, the most specific first."""
