"""A diagnosis as a table that people read: a preamble, warnings in words, and a row per plane."""

from __future__ import annotations

import collections
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import cast

from ..config import Arguments
from ..scaling.scheme import described
from .diagnosis import Diagnosis, Plane

_MARGIN = 20
_WIDTH = 110


def text(found: Arguments, compared: Sequence[Diagnosis], *, every: bool = False) -> str:
    """found: what the config says. compared: the config's own diagnosis first. every: a row for each plane, not only some twenty."""
    own = compared[0]
    lines = [own.name, "=" * len(own.name)]
    for label, words in _preamble(found, own):
        lines.append(textwrap.fill(words, _WIDTH, initial_indent=f"{label:{_MARGIN}}", subsequent_indent=" " * _MARGIN))
    warnings = [*_warnings(compared), *_instead(compared)]
    lines += [""] if warnings else []
    lines += [textwrap.fill(w, _WIDTH, initial_indent="warning: ", subsequent_indent=" " * 9) for w in warnings]
    lines += ["", *(_side_by_side(compared, every) if len(compared) > 1 else _planes(own, every))]
    return "\n".join(lines)


def _preamble(found: Arguments, own: Diagnosis) -> Iterator[tuple[str, str]]:
    pairing = "interleaved" if found.interleaved else "half"
    yield "rotation", f"{found.dim} of {found.head_dim} channels, base {found.base:,.10g}, {pairing} pairing"
    yield "scheme", " then ".join((described(scheme, _short) for scheme in own.scaling)) or "none"
    yield "attention factor", f"{own.attention_factor:.6g}{' on q and on k' if own.attention_factor != 1.0 else ''}"
    yield "trained window", f"{own.window:,} tokens; shown for a context of {own.length:,}"
    count = len(own.planes)
    seen = f"{own.whole} of {count} planes came full circle in training, {count - own.whole} never did"
    yield "critical dimension", f"{own.critical_dimension} of {own.dim}: {seen}"
    yield "planes", _summary(own)
    endless = own.reach == math.inf
    yield "reach", "no new angle at any length" if endless else f"no new angle up to {own.reach:,.0f} tokens"
    yield from (("note", note) for note in found.notes)


def _summary(own: Diagnosis) -> str:
    runs = own.treatments()
    if len(runs) <= 8:
        return ", ".join(f"{a}-{b} {word}" if a != b else f"{a} {word}" for word, a, b in runs)
    counts = collections.Counter(own.treatment(plane) for plane in own.planes)
    return ", ".join(f"{number} {word}" for word, number in counts.items())


def _warnings(compared: Sequence[Diagnosis]) -> list[str]:
    """Each warning once, with the names of those it holds for where it does not hold for all."""
    found: dict[str, list[str]] = {}
    for d in compared:
        for warning in d.warnings:
            found.setdefault(warning, []).append(d.name)
    return [w if len(names) == len(compared) else f"{', '.join(names)}: {w}" for w, names in found.items()]


def _instead(compared: Sequence[Diagnosis]) -> list[str]:
    own = compared[0]
    replacing = [d.name for d in compared[1:] if own.scaling and d.scaling[: len(own.scaling)] != own.scaling]
    if not replacing:
        return []
    names = " and ".join(type(scheme).__name__ for scheme in own.scaling)
    return [
        f"the weights were trained with {names}; {', '.join(replacing)} would change, in its place, planes they rely on"
    ]


def _planes(own: Diagnosis, every: bool) -> list[str]:
    lines = [
        "plane      wavelength [token]        turns in a context of     seen in    the scheme",
        f"       without one    with scheme  {own.window:>11,}{own.length:>13,}   training",
    ]
    for plane in _chosen(own, every):
        lines.append(
            f"{plane.index:5}  {_tokens(plane.trained_wavelength):>12}{_tokens(plane.wavelength):>15}  "
            f"{_turns(plane.trained_turns):>11}{_turns(plane.turns(own.length)):>13}   {_seen(plane):>8}    {_verdict(own, plane)}"
        )
    return lines


def _side_by_side(compared: Sequence[Diagnosis], every: bool) -> list[str]:
    width = max(14, *(len(d.name) + 2 for d in compared))

    def row(label: str, cells: Sequence[str]) -> str:
        return f"{label:22}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [row("", [d.name for d in compared])]
    lines.append(row("attention factor", [f"{d.attention_factor:.4f}" for d in compared]))
    lines.append(row("reach [token]", [_tokens(d.reach) for d in compared]))
    lines += ["", "plane    seen in      slowed down, times", "         training"]
    for plane in _chosen(compared[0], every):
        slowdowns = [d.planes[plane.index].slowdown for d in compared]
        cells = ["at rest" if math.isinf(slowdown) else f"{slowdown:.4g}" for slowdown in slowdowns]
        lines.append(row(f"{plane.index:5}    {_seen(plane)}", cells))
    return lines


def _chosen(own: Diagnosis, every: bool) -> list[Plane]:
    """Every plane, or some sixteen and the ends of each run of planes treated or seen alike."""
    if every or len(own.planes) <= 24:
        return list(own.planes)
    runs = own.treatments()
    ends = {edge for _, a, b in runs for edge in (a, b)} if len(runs) <= 8 else set[int]()
    ends |= {own.whole - 1, own.whole, len(own.planes) - 1}
    step = math.ceil(len(own.planes) / 16)
    return [plane for plane in own.planes if plane.index % step == 0 or plane.index in ends]


def _seen(plane: Plane) -> str:
    return "whole" if plane.whole else f"{100 * plane.trained_turns:.3g} %"


def _verdict(own: Diagnosis, plane: Plane) -> str:
    word = own.treatment(plane)
    return word if word in ("kept", "at rest") else f"{word}, / {plane.slowdown:.4g}"


def _short(value: object) -> str:
    """A field of a scheme; lists of factors by their number and range."""
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
