"""The report of `rotary show`: diagnoses as text, with what the config says, warnings, and a row per plane."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence
from typing import cast

from .. import _checks
from ..config import Arguments
from ..scaling.scheme import described
from . import lines as of_report
from .coordinates import Coordinates, axes_lines
from .diagnosis import Diagnosis, Plane, check_diagnoses
from .lines import COLUMNS

_FULL = 100
"""Characters that a line of the whole table of planes needs. A narrower report leaves out the wavelengths without a scheme, and the
share that training showed."""


def report_text(
    arguments: Arguments,
    diagnoses: Sequence[Diagnosis],
    *,
    all_planes: bool = False,
    several: Coordinates | None = None,
    width: int = COLUMNS,
) -> str:
    """A report for the terminal, at most 110 columns wide; longer names are shortened.

    arguments: what the config says, from rotary.config.read. diagnoses: the config's own first; with more than one, schemes are shown
    side by side, of one dim. all_planes: a row for every plane, not only for some twenty. several: which planes read which coordinate.
    width: columns of the terminal; below 72 counts as 72.

    TypeError or ValueError for arguments that are none of these.

    >>> from rotary import config
    >>> arguments = config.read("llama-3.1-8b")
    >>> own = Diagnosis("Llama 3.1", arguments.dim, arguments.base, arguments.scaling, window=8192, length=131072)
    >>> for line in report_text(arguments, [own]).splitlines()[5:8]:
    ...     print(line)
    trained window      8,192 tokens; shown for a context of 131,072
    critical dimension  70 of 128: 35 of 64 planes came full circle in training, 29 never did
    planes              0-28 kept, 29-34 ramped, 35-63 interpolated
    """
    _checks.instance("arguments", arguments, Arguments, "what rotary.config.read returns")
    check_diagnoses("diagnoses", diagnoses)
    _checks.flag("all_planes", all_planes)
    if several is not None:
        _checks.instance("several", several, Coordinates, "rotary.analysis.Coordinates or None")
    own, width = diagnoses[0], of_report.columns(width)
    lines = of_report.title(own.name, width)
    lines += [of_report.field(label, value, width) for label, value in _preamble(arguments, own, several)]
    warnings = [*_warnings(diagnoses), *_replaced_scheme(diagnoses)]
    lines += [""] if warnings else []
    lines += [of_report.warning(text, width) for text in warnings]
    lines += [
        "",
        *(_side_by_side(diagnoses, all_planes, width) if len(diagnoses) > 1 else _planes(own, all_planes, width)),
    ]
    return "\n".join(lines)


def _preamble(arguments: Arguments, own: Diagnosis, several: Coordinates | None) -> Iterator[tuple[str, str]]:
    pairing = "interleaved" if arguments.interleaved else "half"
    channels = f"{arguments.dim} of {arguments.head_dim} channels"
    yield "rotation", f"{channels}, base {arguments.base:,.10g}, {pairing} pairing"
    yield "scheme", " then ".join(described(scheme, _short) for scheme in own.scaling) or "none"
    yield "attention factor", f"{own.attention_factor:.6g}{' on q and on k' if own.attention_factor != 1.0 else ''}"
    yield "trained window", f"{own.window:,} tokens; shown for a context of {own.length:,}"
    count = len(own.planes)
    counts = f"{own.whole} of {count} planes came full circle in training, {count - own.whole} never did"
    yield "critical dimension", f"{own.critical_dimension} of {own.dim}: {counts}"
    yield "planes", _summary(own)
    endless = own.reach == math.inf
    yield "reach", "no new angle at any length" if endless else f"no new angle up to {own.reach:,.0f} tokens"
    if several is not None:
        yield from axes_lines(several)
    yield from (("note", note) for note in (*arguments.notes, *own.notes))


def _summary(own: Diagnosis) -> str:
    runs = own.treatments()
    if len(runs) <= 8:
        return ", ".join(f"{a}-{b} {treatment}" if a != b else f"{a} {treatment}" for treatment, a, b in runs)
    counts = collections.Counter(own.treatment(plane) for plane in own.planes)
    return ", ".join(f"{number} {treatment}" for treatment, number in counts.items())


def _warnings(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """Each warning once, after the names of the diagnoses that have it, unless all have it."""
    names: dict[str, list[str]] = {}
    for d in diagnoses:
        for warning in d.warnings:
            names.setdefault(warning, []).append(d.name)
    return [w if len(owners) == len(diagnoses) else f"{', '.join(owners)}: {w}" for w, owners in names.items()]


def _replaced_scheme(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """A warning about schemes that replace the config's own instead of extending it."""
    own = diagnoses[0]
    replacing = [d.name for d in diagnoses[1:] if own.scaling and d.scaling[: len(own.scaling)] != own.scaling]
    if not replacing:
        return []
    names = " and ".join(type(scheme).__name__ for scheme in own.scaling)
    return [
        f"the weights were trained with {names}; {', '.join(replacing)}, in its place, would change planes that they rely on"
    ]


def _planes(own: Diagnosis, all_planes: bool, width: int) -> list[str]:
    if width < _FULL:
        lines = [
            "plane   wavelength   turns in a context of     the scheme",
            f"           [token]  {own.window:>11,}{own.length:>13,}",
        ]
        for plane in _shown(own, all_planes):
            turns = f"{_turns(plane.trained_turns):>11}{_turns(plane.turns(own.length)):>13}"
            lines.append(f"{plane.index:5}{_tokens(plane.wavelength):>13}  {turns}    {_verdict(own, plane)}")
        return lines
    lines = [
        "plane      wavelength [token]        turns in a context of     seen in    the scheme",
        f"       without one    with scheme  {own.window:>11,}{own.length:>13,}   training",
    ]
    for plane in _shown(own, all_planes):
        lines.append(
            f"{plane.index:5}  {_tokens(plane.trained_wavelength):>12}{_tokens(plane.wavelength):>15}  "
            f"{_turns(plane.trained_turns):>11}{_turns(plane.turns(own.length)):>13}   {_seen(plane):>8}    {_verdict(own, plane)}"
        )
    return lines


def _side_by_side(diagnoses: Sequence[Diagnosis], all_planes: bool, width: int) -> list[str]:
    """A column for each diagnosis; where they do not fit the width, several tables below each other, each with the config's own first."""
    column = min(max(14, *(len(d.name) + 2 for d in diagnoses)), (width - 22) // 2)
    per_table = max(1, (width - 22) // column - 1)
    own, compared = diagnoses[0], diagnoses[1:]
    lines: list[str] = []
    for first in range(0, len(compared), per_table):
        lines += ["", ""] if lines else []
        lines += _columns([own, *compared[first : first + per_table]], all_planes, column)
    return lines


def _columns(diagnoses: Sequence[Diagnosis], all_planes: bool, width: int) -> list[str]:
    def row(label: str, cells: Sequence[str]) -> str:
        return f"{label:22}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [row("", [of_report.shortened(d.name, width - 2) for d in diagnoses])]
    lines.append(row("attention factor", [f"{d.attention_factor:.4f}" for d in diagnoses]))
    lines.append(row("reach [token]", [_tokens(d.reach) for d in diagnoses]))
    lines += ["", "plane    seen in      slowed down, times", "         training"]
    for plane in _shown(diagnoses[0], all_planes):
        slowdowns = [d.planes[plane.index].slowdown for d in diagnoses]
        cells = ["at rest" if math.isinf(slowdown) else f"{slowdown:.4g}" for slowdown in slowdowns]
        lines.append(row(f"{plane.index:5}    {_seen(plane)}", cells))
    return lines


def _shown(own: Diagnosis, all_planes: bool) -> list[Plane]:
    """Every plane, or some 16 at even steps and the ends of each run of planes with equal treatment."""
    if all_planes or len(own.planes) <= 24:
        return list(own.planes)
    runs = own.treatments()
    ends = {edge for _, a, b in runs for edge in (a, b)} if len(runs) <= 8 else set[int]()
    ends |= {own.whole - 1, own.whole, len(own.planes) - 1}
    step = math.ceil(len(own.planes) / 16)
    return [plane for plane in own.planes if plane.index % step == 0 or plane.index in ends]


def _seen(plane: Plane) -> str:
    return "whole" if plane.whole else f"{100 * plane.trained_turns:.3g} %"


def _verdict(own: Diagnosis, plane: Plane) -> str:
    treatment = own.treatment(plane)
    return treatment if treatment in ("kept", "at rest") else f"{treatment}, / {plane.slowdown:.4g}"


def _short(value: object) -> str:
    """The value of a scheme's field; a list of factors by its length and range."""
    if isinstance(value, tuple):
        factors = cast("tuple[float, ...]", value)
        return f"({len(factors)} values, {min(factors):.4g} to {max(factors):.4g})"
    return str(value)


def _tokens(value: float) -> str:
    if math.isinf(value):
        return "endless"
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}" if value < 1e8 else f"{value:.3g}"


def _turns(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3f}"
