"""Which coordinate of a position each plane reads: tuples of dim/2 integers, for RotaryEmbedding(axes=...).

    plane j turns by positions[..., axes[j]] x inv_freq[j]

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
    """So many planes for coordinate 0, then for coordinate 1, and so on. ValueError for a number below 1.

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

    ValueError for fewer planes than the sections need.

    >>> strided((3, 3, 2))
    (0, 1, 2, 0, 1, 2, 0, 1)
    """
    counts = [_planes(f"sections[{axis}]", n) for axis, n in enumerate(sections)]
    if not counts:
        raise ValueError("strided() needs the number of planes of each coordinate, as strided((24, 20, 20))")
    total = sum(counts) if planes is None else _planes("planes", planes)
    n = len(counts)
    found = tuple(j % n if j < n * counts[j % n] else 0 for j in range(total))
    if planes is not None and total < sum(counts):
        raise ValueError(f"the sections {tuple(counts)} need {sum(counts)} planes, got planes={total}")
    return found


def alternating(coordinates: int, planes: int) -> Axes:
    """0, 1, .., coordinates - 1, again and again.

    >>> alternating(2, 5)
    (0, 1, 0, 1, 0)
    """
    n = _planes("coordinates", coordinates)
    return tuple(j % n for j in range(_planes("planes", planes)))


def checked(axes: Any, planes: int) -> Axes:
    """axes as a tuple of plain integers. TypeError for what is no sequence of integers; ValueError for another number of planes than
    the module has, a negative coordinate, and one that no plane reads."""
    try:
        found = tuple(_checks.index(f"axes[{j}]", axis) for j, axis in enumerate(axes))
    except TypeError as error:
        raise TypeError(f"axes must be a sequence of integers, one per plane: {error}") from None
    if len(found) != planes:
        raise ValueError(f"axes must name a coordinate for each of the {planes} planes (dim/2), got {len(found)}")
    if min(found) < 0:
        raise ValueError(f"axes must not be negative, got {min(found)}")
    unread = sorted(set(range(max(found) + 1)) - set(found))
    if unread:
        raise ValueError(f"no plane reads coordinate {unread[0]}: axes must use 0 .. {max(found)} without a gap")
    return found


def shown(axes: Axes) -> str:
    """The shortest call of this module that gives these axes, else the tuple in runs.

    >>> shown((0, 0, 1, 1, 1)), shown((1, 2) * 22 + (0,) * 20)
    ('sections(2, 3)', '(1, 2) * 22 + (0,) * 20')
    """
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
    n = _checks.index(name, value)
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}")
    return n
