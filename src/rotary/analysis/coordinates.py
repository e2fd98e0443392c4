"""Coordinates: which planes read which coordinate of a position, and how their wavelengths compare with the grid, as numbers and text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .. import _checks
from ..axes import Axes, checked, shown
from ..config import Arguments
from . import lines as of_report
from .lines import COLUMNS

_ARGUMENTS = "what rotary.config.read returns"


@dataclass(frozen=True)
class Coordinates:
    """The planes of a module of several coordinates.

    name: a label. axes: the coordinate that each plane reads. inv_freq: of each plane [rad per unit of its coordinate].
    grid: the size of each coordinate, a number of patches or tokens, or the length of the interval of real ones.

    TypeError or ValueError for arguments that are none of these.

    >>> made = Coordinates("two axes", (0, 0, 1, 1), (1.0, 0.1, 1.0, 0.1), (16, 32))
    >>> made.planes(1), [round(w) for w in made.wavelengths(1)], made.whole(1)
    ([2, 3], [6, 63], 1)
    """

    name: str
    axes: Axes
    inv_freq: tuple[float, ...]
    grid: tuple[float, ...]

    def __post_init__(self) -> None:
        _checks.text("name", self.name, "rows and columns")
        inv_freq = _checks.list_of("inv_freq", self.inv_freq, "numbers, one per plane")
        frequencies = tuple(_checks.number_of_any_sign(f"inv_freq[{j}]", f) for j, f in enumerate(inv_freq))
        if not all(map(math.isfinite, frequencies)):
            raise ValueError("inv_freq must be finite; some of its numbers are infinite or nan")
        grid = _checks.list_of("grid", self.grid, "numbers, one for each coordinate")
        sizes = tuple(_checks.number(f"grid[{i}]", size) for i, size in enumerate(grid))
        axes = checked(self.axes, len(frequencies))
        if len(sizes) != max(axes) + 1:
            raise ValueError(
                f"grid must have one size for each of the {max(axes) + 1} coordinates that the planes read, got {len(sizes)}"
            )

    def planes(self, coordinate: int) -> list[int]:
        """The planes that read it and turn."""
        return [j for j, axis in enumerate(self.axes) if axis == coordinate and self.inv_freq[j]]

    def wavelengths(self, coordinate: int) -> list[float]:
        """The wavelengths of these planes, in units of the coordinate, whichever way they turn."""
        return [2 * math.pi / abs(self.inv_freq[j]) for j in self.planes(coordinate)]

    def turns(self, plane: int) -> float:
        """Turns of a plane across the grid, whichever way it turns."""
        return self.grid[self.axes[plane]] * abs(self.inv_freq[plane]) / (2 * math.pi)

    def whole(self, coordinate: int) -> int:
        """How many of its planes make at least one turn across the grid."""
        return sum(self.turns(j) >= 1.0 for j in self.planes(coordinate))

    @property
    def still(self) -> int:
        """How many planes do not turn."""
        return sum(f == 0.0 for f in self.inv_freq)


def coordinates_text(arguments: Arguments, own: Coordinates, *, all_planes: bool = False, width: int = COLUMNS) -> str:
    """A report for the terminal, at most 110 columns wide; a longer name is shortened.

    arguments: what the config says, from rotary.config.read. own: its planes. all_planes: a row for every plane. width: columns of the
    terminal; below 72 counts as 72. TypeError or ValueError for arguments that are none of these.
    """
    _checks.instance("arguments", arguments, Arguments, _ARGUMENTS)
    _checks.instance("own", own, Coordinates, "rotary.analysis.Coordinates")
    _checks.flag("all_planes", all_planes)
    width = of_report.columns(width)
    pairing = "interleaved" if arguments.interleaved else "half"
    channels = f"{arguments.dim} of {arguments.head_dim} channels, base {arguments.base:,.10g}, {pairing} pairing"
    fields = [("rotation", channels), *axes_lines(own), *(("note", note) for note in arguments.notes)]
    schemes = [f"{part.scaling} on coordinate {part.axis}" for part in arguments.parts if part.scaling]
    if schemes:
        fields.insert(1, ("scheme", "; ".join(schemes)))
    lines = [of_report.field(label, value, width) for label, value in fields]
    return "\n".join([*of_report.title(own.name, width), *lines, "", *_rows(own, all_planes)])


def axes_lines(own: Coordinates) -> Iterator[tuple[str, str]]:
    """(label, text): a line for all axes together, and one for each coordinate."""
    yield "axes", shown(own.axes) + (f"; {own.still} planes do not turn" if own.still else "")
    for coordinate, size in enumerate(own.grid):
        waves, planes = own.wavelengths(coordinate), own.planes(coordinate)
        if not planes:
            yield f"coordinate {coordinate}", f"no plane that turns, on {_number(size)}"
            continue
        yield (
            f"coordinate {coordinate}",
            f"{len(planes)} planes, {_runs(planes)}; wavelengths {_number(min(waves))} to {_number(max(waves))}, on {_number(size)}: "
            f"{own.whole(coordinate)} come full circle",
        )


def _rows(own: Coordinates, all_planes: bool) -> Iterator[str]:
    """A row for every plane, or for some 16 at even steps and the ends of each coordinate."""
    yield "plane  coordinate     wavelength    turns across the grid"
    count = len(own.axes)
    step = 1 if all_planes or count <= 24 else math.ceil(count / 16)
    ends = {edge for c in range(len(own.grid)) for edge in (*own.planes(c)[:1], *own.planes(c)[-1:])}
    for j, axis in enumerate(own.axes):
        if j % step == 0 or j in ends:
            wave = "at rest" if not own.inv_freq[j] else _number(2 * math.pi / abs(own.inv_freq[j]))
            yield f"{j:5}  {axis:10}  {wave:>13}  {own.turns(j):>19.3f}"


def _runs(planes: Sequence[int]) -> str:
    """The planes as runs, or as an even stride, else their first and last.

    >>> _runs([0, 1, 2, 5]), _runs([1, 4, 7]), _runs([1, 4, 7, 10, 60, 61, 63])
    ('0-2 and 5', 'every 3rd from 1 to 7', '1 to 63')
    """
    runs: list[list[int]] = []
    for j in planes:
        if runs and runs[-1][1] == j - 1:
            runs[-1][1] = j
        else:
            runs.append([j, j])
    if len(runs) <= 2:
        return " and ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)
    steps = {b - a for a, b in _pairs(planes)}
    if len(steps) == 1:
        every = steps.pop()
        return f"every {every}{'nd' if every == 2 else 'rd' if every == 3 else 'th'} from {planes[0]} to {planes[-1]}"
    return f"{planes[0]} to {planes[-1]}"


def _pairs(planes: Sequence[int]) -> Iterable[tuple[int, int]]:
    return itertools.pairwise(planes)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
