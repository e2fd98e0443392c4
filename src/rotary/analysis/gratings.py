"""Pictures of planes on a grid of rows and columns: wavelengths, the score of a patch with all others, and gratings.

A plane is a grating on an image: the cosine of its angle is a wave along the coordinate that it reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _checks
from .coordinates import Coordinates
from .plots import COLOURS, GREY, painted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = ("o", "s", "^", "D")
_CELLS = 96


def draw_coordinates(file: Path, layers: Sequence[Coordinates]) -> None:
    """Write the picture into a file, a row for each of the layers; its suffix is the format, .png, .pdf or .svg among others.

    Two coordinates are rows and columns of the image. ValueError where there is one coordinate, or planes of one of the two do not turn,
    and if matplotlib is missing or does not write the format; TypeError for what is no path or Coordinates.

    >>> import tempfile
    >>> made = Coordinates("two axes", (0, 0, 1, 1), (1.0, 0.1, 1.0, 0.1), (16, 32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_coordinates(Path(folder) / "axes.svg", [made])
    ...     [path.name for path in Path(folder).iterdir()]
    ['axes.svg']
    """

    file = _checks.path("file", file)
    if not _checks.list_of("layers", layers, "rotary.analysis.Coordinates"):
        raise ValueError("layers must have at least one rotary.analysis.Coordinates")
    for i, own in enumerate(layers):
        _checks.instance(f"layers[{i}]", own, Coordinates, "rotary.analysis.Coordinates")
        if len(own.grid) < 2:
            raise ValueError(
                f"layers[{i}] has one coordinate, and an image has two, rows and columns; rotary.analysis.draw is for one"
            )
        for coordinate in _of_image(own):
            if not own.planes(coordinate):
                raise ValueError(
                    f"layers[{i}] has no plane that turns by coordinate {coordinate}, which is one of the image"
                )

    def paint(figure: Any) -> None:
        rows = figure.subfigures(len(layers), 1, squeeze=False)[:, 0]
        for row, own in zip(rows, layers, strict=True):
            row.suptitle(own.name, x=0.01, ha="left", fontsize=11)
            left, middle, right = row.subfigures(1, 3, width_ratios=(1.15, 1.0, 1.15))
            _waves(left.subplots(), own)
            _score(middle, own)
            _gratings(right, own)

    painted(file, (11.0, 3.7 * len(layers)), paint)


def _waves(axes: Axes, own: Coordinates) -> None:
    """Wavelength of each plane, marked by its coordinate, and the size of the grid."""
    for coordinate, size in enumerate(own.grid):
        colour = _colour(own, coordinate)
        planes = own.planes(coordinate)
        mark: Any = {
            "ls": "",
            "marker": _MARKS[(coordinate - _of_image(own)[1]) % 4],
            "ms": 3.6,
            "mfc": "none",
            "mec": colour,
        }
        axes.plot(planes, own.wavelengths(coordinate), label=_name(own, coordinate), **mark)
        if size not in own.grid[:coordinate] and size > 1:
            axes.axhline(size, color=GREY, lw=0.8, ls=(0, (4, 2)))
            axes.annotate(
                f"grid, {size:g}", (1.0, size), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                ha="right", color=GREY, fontsize=8,
            )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("plane")
    axes.set_ylabel("wavelength [unit of its coordinate]")
    axes.set_title("Wavelengths")
    axes.set_ylim(min(w for c in range(len(own.grid)) for w in own.wavelengths(c)) / 8, None)
    axes.legend(loc="lower right", ncols=len(own.grid), columnspacing=0.8, handletextpad=0.0)


def _score(panel: Any, own: Coordinates) -> None:
    """Score of equal vectors over dim: the mean over planes of cos(difference x inv_freq), on the grid, from its middle."""
    axes = panel.subplots()
    rows, columns = _image(own)
    score = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for j, axis in enumerate(own.axes):
        score += torch.cos(_angle(own, j, axis, rows - rows.mean(), columns - columns.mean()))
    height, width = (own.grid[axis] for axis in _of_image(own))
    extent = (-width / 2, width / 2, height / 2, -height / 2)
    drawn = axes.imshow(
        (score / len(own.axes)).numpy(), cmap="cividis", extent=extent, interpolation="nearest", vmax=1.0
    )
    axes.set_xlabel("columns apart")
    axes.set_ylabel("rows apart")
    axes.set_title("Score of equal vectors / dim")
    panel.colorbar(drawn, ax=axes, shrink=0.62, aspect=14)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _gratings(panel: Any, own: Coordinates) -> None:
    """cos of six planes on the image: fast, middling and slow ones of rows and of columns."""
    (row, column), (rows, columns) = _of_image(own), _image(own)
    cells = panel.subplots(2, 3)
    panel.suptitle("Planes on the grid, and their wavelengths", x=0.02, ha="left", fontsize=10)
    for line, coordinate in zip(cells, _of_image(own), strict=True):
        planes = own.planes(coordinate)
        for axes, j in zip(line, _spread(own, planes), strict=True):
            wave = torch.cos(_angle(own, j, coordinate, rows, columns)).expand(len(rows), len(columns)).numpy()
            axes.imshow(
                wave,
                cmap="gray",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
                aspect=own.grid[row] * len(columns) / (own.grid[column] * len(rows)),
            )
            axes.set_title(f"plane {j}: {2 * math.pi / abs(own.inv_freq[j]):.3g}", fontsize=8, pad=3)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(True)
                spine.set_color(GREY)
                spine.set_linewidth(0.4)


def _of_image(own: Coordinates) -> tuple[int, int]:
    """The coordinates of rows and of columns: the last two, but (1, 2) of four, which is Flux 2's order."""
    n = min(len(own.grid), 3)
    return (n - 2, n - 1)


def _name(own: Coordinates, coordinate: int) -> str:
    row, column = _of_image(own)
    return {row: "rows", column: "columns"}.get(coordinate, f"coordinate {coordinate}")


def _colour(own: Coordinates, coordinate: int) -> str:
    """Rows and columns have one colour each in every row of the picture."""
    return COLOURS[(coordinate - _of_image(own)[1]) % len(COLOURS)]


def _spread(own: Coordinates, planes: Sequence[int]) -> list[int]:
    """Three planes, those with wavelengths nearest to an eighth, a third and the whole of the grid."""
    size = own.grid[own.axes[planes[0]]]
    spread: list[int] = []
    for wavelength in (size / 8, size / 3, size):
        left = [j for j in planes if j not in spread] or list(planes)
        spread.append(min(left, key=lambda j: abs(math.log(2 * math.pi / abs(own.inv_freq[j]) / wavelength))))
    return spread


def _image(own: Coordinates) -> tuple[Tensor, Tensor]:
    """Positions of rows and of columns: one for each patch, or _CELLS at even steps on a grid of few or very many."""
    positions: list[Tensor] = []
    for size in (own.grid[axis] for axis in _of_image(own)):
        n = int(size) if size >= 4 and size <= 4 * _CELLS else _CELLS
        positions.append((torch.arange(n, dtype=torch.float64) + 0.5) * (size / n))
    return positions[0], positions[1]


def _angle(own: Coordinates, plane: int, coordinate: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Angles [rad] of a plane that reads that coordinate, broadcasting to (rows, columns)."""
    row, column = _of_image(own)
    if coordinate == row:
        return rows[:, None] * own.inv_freq[plane]
    if coordinate == column:
        return columns[None, :] * own.inv_freq[plane]
    return torch.zeros(1, 1, dtype=torch.float64)
