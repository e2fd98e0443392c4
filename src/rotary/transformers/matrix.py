"""interpret(): the spec of a rotation from its matrix: which channels it pairs, which table entries multiply them, and with which sign.

For a rotation y = M x, each row of M has two entries: one of the cos table, for the channel itself, and one of the sin table, for the
other channel of its pair. M is measured with tables of distinct random numbers, so each entry identifies where it comes from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .spec import Partial, RotationSpec, Widths


class _Entry(NamedTuple):
    """The source of an entry of M: the first or the second table (0 or 1), its column, and the sign."""

    table: int
    column: int
    sign: int


_Row = dict[int, _Entry]
"""One row of M: input channel -> entry. Channels with a zero are absent."""


def interpret(matrix: Tensor, first: Tensor, second: Tensor) -> RotationSpec | str:
    """Pairing, direction, table layout and rotated channels of M, or the reason why it is no rotation."""
    block = _rotated_block([_row(d, values, first, second) for d, values in enumerate(matrix.tolist())])
    if block is None:
        return "it does not rotate pairs of channels by two tables"
    rows, start = block
    partial: Partial = False if len(rows) == len(matrix) else "trailing" if start else "leading"
    for hypothesis in _hypotheses(("cat", "repeat", "half" if 2 * len(first) == len(rows) else "first")):
        if hypothesis.rows(len(rows), start) != rows:
            continue
        if hypothesis.interleaved_output and not hypothesis.interleaved:
            return "its input is half-paired and its output interleaved, which is not supported"
        return RotationSpec(
            interleaved=hypothesis.interleaved,
            to_half=hypothesis.interleaved != hypothesis.interleaved_output,
            widths=hypothesis.widths,
            conjugate=hypothesis.conjugate,
            sin_first=hypothesis.sin_first,
            partial=partial,
        )
    return "it pairs channels or table columns in an unsupported order"


def _row(d: int, values: list[float], first: Tensor, second: Tensor) -> _Row | None:
    """The sources of the entries in row d of M; None if output channel d is input channel d."""
    if values[d] == 1.0 and not any(values[:d] + values[d + 1 :]):
        return None
    sources = {value: (t, j) for t, table in enumerate((first, second)) for j, value in enumerate(table.tolist())}
    return {
        e: _Entry(*sources[abs(value)], 1 if value > 0 else -1)
        for e, value in enumerate(values)
        if value and abs(value) in sources
    }


def _rotated_block(rows: list[_Row | None]) -> tuple[list[_Row], int] | None:
    """(rows of the channels that rotate, the first of these channels); None unless they are one leading or trailing block of pairs."""
    rotated = [d for d, row in enumerate(rows) if row is not None]
    block = [row for row in rows if row is not None]
    if not block or len(block) % 2 or any(len(row) != 2 for row in block):
        return None
    start = 0 if rotated[0] == 0 else len(rows) - len(block)
    return (block, start) if rotated == list(range(start, start + len(block))) else None


@dataclass(frozen=True)
class _Hypothesis:
    """One combination of the five properties that determine M, to be compared with the measured M."""

    interleaved: bool
    interleaved_output: bool
    widths: Widths
    sin_first: bool
    conjugate: bool

    def rows(self, channels: int, start: int) -> list[_Row]:
        """The rows of M for the rotated channels, whose first is channel `start` of the input."""
        pairs = channels // 2
        cos, sin = (1, 0) if self.sin_first else (0, 1)
        sign = -1 if self.conjugate else 1
        rows: list[_Row] = [{} for _ in range(channels)]
        for j in range(pairs):
            a, b = (start + channel for channel in _pair(j, pairs, self.interleaved))
            y_a, y_b = _pair(j, pairs, self.interleaved_output)
            column_a, column_b = _columns(j, pairs, self.widths)
            rows[y_a] = {a: _Entry(cos, column_a, 1), b: _Entry(sin, column_a, -sign)}
            rows[y_b] = {b: _Entry(cos, column_b, 1), a: _Entry(sin, column_b, sign)}
        return rows


def _hypotheses(widths: Iterable[Widths]) -> Iterator[_Hypothesis]:
    flags = (False, True)
    return itertools.starmap(_Hypothesis, itertools.product(flags, flags, widths, flags, flags))


def _pair(j: int, pairs: int, interleaved: bool) -> tuple[int, int]:
    """The two channels of pair j."""
    return (2 * j, 2 * j + 1) if interleaved else (j, j + pairs)


def _columns(j: int, pairs: int, widths: Widths) -> tuple[int, int]:
    """The table columns that multiply the two channels of pair j."""
    return (j, j) if widths in ("first", "half") else _pair(j, pairs, widths == "repeat")
