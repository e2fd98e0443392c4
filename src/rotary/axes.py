"""Which coordinate of a position each plane reads: tuples of dim/2 integers, for RotaryEmbedding(axes=...).

    plane j turns by positions[..., axes[j]] x inv_freq[j] radians

    sections(2, 3, 3)               0 0 1 1 1 2 2 2       Qwen2-VL, GLM-4V: blocks of planes
    strided((3, 3, 2))              0 1 2 0 1 2 0 1       Qwen3-VL: coordinates in turn
    alternating(2, 8)               0 1 0 1 0 1 0 1       NeoMME, HunyuanImage

Any other order is typed out: (1, 2) * 22 + (0,) * 20 is that of Ernie-4.5-VL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _checks

Axes = tuple[int, ...]


def sections(*planes: int) -> Axes:
    """planes[0] planes for coordinate 0, then planes[1] for coordinate 1, and so on.

    TypeError for numbers that are no integers; ValueError for none at all and for numbers outside 1 .. 32,768, half the widest head.

    >>> sections(2, 3, 3)
    (0, 0, 1, 1, 1, 2, 2, 2)
    """
    if not planes:
        raise ValueError("sections() needs the number of planes of each coordinate, as sections(16, 24, 24)")
    return tuple(axis for axis, n in enumerate(planes) for _ in range(_planes(f"planes[{axis}]", n)))


def strided(sections: Sequence[int], *, planes: int | None = None) -> Axes:
    """Coordinates in turn: plane j reads coordinate j % n while that has planes left, and coordinate 0 otherwise.

    sections: the number of planes of each of n coordinates, as mrope_section of Qwen3-VL has them. planes: of a head, by default
        their sum; further ones read coordinate 0 (transformers 5.23, models/qwen3_vl/modeling_qwen3_vl.py, apply_interleaved_mrope).
        As there, a coordinate whose turn comes too late for its number has fewer planes: those of (2, 3, 3) are 3, 3 and 2.

    TypeError for numbers that are no integers; ValueError for numbers below 1, and for fewer planes than the sections need.

    >>> strided((3, 3, 2)), strided((2, 3, 3))
    ((0, 1, 2, 0, 1, 2, 0, 1), (0, 1, 2, 0, 1, 2, 0, 1))
    """
    counts = [
        _planes(f"sections[{axis}]", n) for axis, n in enumerate(_checks.list_of("sections", sections, "integers"))
    ]
    if not counts:
        raise ValueError("strided() needs the number of planes of each coordinate, as strided((24, 20, 20))")
    total = sum(counts) if planes is None else _planes("planes", planes)
    n = len(counts)
    if total < sum(counts):
        raise ValueError(f"the sections {tuple(counts)} need {sum(counts)} planes, got planes={total}")
    return tuple(j % n if j < n * counts[j % n] else 0 for j in range(total))


def alternating(coordinates: int, planes: int) -> Axes:
    """0, 1, .., coordinates - 1, again and again, for so many planes. TypeError or ValueError for numbers that are no integers >= 1,
    and for fewer planes than coordinates.

    >>> alternating(2, 5)
    (0, 1, 0, 1, 0)
    """
    n, total = _planes("coordinates", coordinates), _planes("planes", planes)
    if total < n:
        raise ValueError(f"{n} coordinates need at least {n} planes, one each, got planes={total}")
    return tuple(j % n for j in range(total))


def checked(axes: Any, planes: int) -> Axes:
    """axes as a tuple of plain integers. TypeError for what is no sequence of integers; ValueError for another number of planes than
    the module has, a negative coordinate, and one that no plane reads."""
    planes = _planes("planes", planes)
    try:
        coordinates = tuple(_checks.index(f"axes[{j}]", axis) for j, axis in enumerate(axes))
    except TypeError as error:
        raise TypeError(f"axes must be a sequence of integers, one per plane: {error}") from None
    if len(coordinates) != planes:
        raise ValueError(f"axes must name a coordinate for each of the {planes} planes (dim/2), got {len(coordinates)}")
    if min(coordinates) < 0:
        raise ValueError(f"axes must not be negative, got {min(coordinates)}")
    largest = max(coordinates)
    unread = next(axis for axis in range(planes + 1) if axis not in coordinates)
    if unread <= largest:
        raise ValueError(f"no plane reads coordinate {unread}: axes must use 0 .. {largest} without a gap")
    return coordinates


def shown(axes: Axes) -> str:
    """The shortest call of this module that gives these axes, as text; else the tuple in runs. TypeError or ValueError as checked().

    >>> shown((0, 0, 1, 1, 1)), shown((1, 2) * 22 + (0,) * 20)
    ('sections(2, 3)', '(1, 2) * 22 + (0,) * 20')
    """
    axes = checked(axes, len(_checks.list_of("axes", axes, "integers")))
    counts = [axes.count(axis) for axis in range(max(axes) + 1)]
    if axes == sections(*counts):
        return f"sections({', '.join(map(str, counts))})"
    if axes == alternating(len(counts), len(axes)):
        return f"alternating({len(counts)}, {len(axes)})"
    try:
        if axes == strided(counts):
            return f"strided({tuple(counts)})"
    except ValueError:
        pass
    return " + ".join(_repeated(axes))


def _repeated(axes: Axes) -> list[str]:
    """The tuple as repetitions of short patterns, longest repetition first, and what lies between."""
    parts: list[str] = []
    between: Axes = ()
    start = 0
    while start < len(axes):
        best = (1, 1)  # length of the pattern, repetitions
        for length in range(1, 5):
            pattern, times = axes[start : start + length], 1
            while axes[start + times * length : start + (times + 1) * length] == pattern:
                times += 1
            if len(pattern) == length and times > 1 and length * times > best[0] * best[1]:
                best = (length, times)
        length, times = best
        pattern = axes[start : start + length]
        if times == 1:
            between += pattern
        else:
            parts += [*([str(between)] if between else []), f"{pattern} * {times}"]
            between = ()
        start += length * times
    return [*parts, *([str(between)] if between else [])]


def _planes(name: str, value: Any) -> int:
    return _checks.count(name, value, most=_checks.WIDEST // 2)
