"""PlaneOrder: which coordinate and which frequency each plane of a rotary module of several coordinates reads, found by calling it.

A position of 1 on one coordinate and 0 on the others gives, in each column of sin, the sine of one frequency where that column reads the
coordinate, and 0 elsewhere. The order that follows is then compared with the module at other positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..axes import Axes
from .surroundings import defaults

PositionLayout = Literal["first", "last", "rows"]
"""Where coordinates are in position_ids: (coordinates, batch, seq), (batch, seq, coordinates), or (tokens, coordinates)."""

_CLOSE = 1e-5  # absolute, of cos and sin at positions below 10: float32 angles are off by 1e-6 there
_COORDINATES = (2, 3, 4)
_LAYOUTS: tuple[PositionLayout, ...] = ("first", "rows", "last")


@dataclass(frozen=True)
class PlaneOrder:
    """What the planes of a module read: plane j turns by coordinate axes[j] x inv_freq[index[j]].

    layout: where coordinates are in position_ids. repeated: whether tables have every plane twice in a row, [c0, c0, c1, c1, ..]; otherwise
    one half after the other.
    """

    layout: PositionLayout
    axes: Axes
    index: tuple[int, ...]
    repeated: bool

    def last(self, position_ids: Tensor) -> Tensor:
        """Positions with coordinates in the last dimension."""
        return position_ids.movedim(0, -1) if self.layout == "first" else position_ids

    def spread(self, table: Tensor) -> Tensor:
        """A table of half width as the module lays it out."""
        return table.repeat_interleave(2, -1) if self.repeated else torch.cat((table, table), -1)


def position_layouts(position_ids: Tensor) -> list[tuple[PositionLayout, int]]:
    """Where coordinates may be in positions of this shape, and how many there are, likeliest first."""
    shape = position_ids.shape
    candidates: list[tuple[PositionLayout, int]] = []
    if position_ids.ndim == 3:
        candidates = [("first", shape[0]), ("last", shape[-1])]
    elif position_ids.ndim == 2:
        candidates = [("rows", shape[-1])]
    return [(layout, n) for layout, n in candidates if n in _COORDINATES]


def plane_orders(module: nn.Module, inv_freq: Tensor) -> dict[tuple[PositionLayout, int], PlaneOrder] | None:
    """The plane order for each layout and number of coordinates that a module takes; empty where it takes several coordinates in an
    unknown order, None for a module of one coordinate."""
    forward = type(module).forward
    orders: dict[tuple[PositionLayout, int], PlaneOrder] = {}
    for layout in _LAYOUTS:
        for n in _COORDINATES:
            order = plane_order(module, forward, inv_freq, layout, n)
            if isinstance(order, PlaneOrder):
                orders[layout, n] = order
    if not orders and not any(_takes(module, forward, inv_freq, n) for n in _COORDINATES):
        return None
    return orders


def _takes(module: nn.Module, forward: Callable[..., Any], inv_freq: Tensor, n: int) -> bool:
    """True if forward takes positions (n, 1, seq) as coordinates of one row, so that it returns tables of one row."""
    return not isinstance(
        _tables(module, forward, inv_freq, torch.tensor([[[0, 1, 2, 5]]] * n, device=inv_freq.device), 4), str
    )


def plane_order(
    module: nn.Module, forward: Callable[..., Any], inv_freq: Tensor, layout: PositionLayout, n: int
) -> PlaneOrder | str:
    """The plane order of a module for positions of n coordinates in that layout; or the reason why none is found.

    forward: the module's own, unbound. inv_freq: (planes or fewer,) [rad per unit of a coordinate].
    """
    rows: list[Tensor] = []
    for axis in range(n):
        unit = [[int(c == axis) for c in range(n)]]
        tables = _tables(module, forward, inv_freq, _positions(layout, unit, inv_freq), 1)
        if isinstance(tables, str):
            return tables
        rows.append(tables[1][0])
    sines = torch.stack(rows)  # (n, columns)
    columns = sines.shape[-1]
    if columns % 2 or columns == 0:
        return f"its tables have {columns} columns"
    axes = sines.abs().argmax(0)
    largest = sines.gather(0, axes[None])[0] / _factor(module)
    remainder = sines.abs().sum(0) - sines.abs().gather(0, axes[None])[0]
    if float(remainder.max()) > _CLOSE:
        return "a column of its tables reads two coordinates"
    errors = (largest[:, None] - inv_freq.double().sin()).abs() / inv_freq.double().sin().abs().clamp(min=1e-30)
    nearest = errors.argmin(-1)
    pairs = {
        True: (slice(0, None, 2), slice(1, None, 2)),
        False: (slice(None, columns // 2), slice(columns // 2, None)),
    }
    for repeated, (first, second) in pairs.items():
        if torch.equal(axes[first], axes[second]) and torch.equal(nearest[first], nearest[second]):
            order = PlaneOrder(layout, tuple(axes[first].tolist()), tuple(nearest[first].tolist()), repeated)
            if _agrees(module, forward, inv_freq, order, n):
                return order
            return "its tables at other positions are not those that its tables near 0 imply"
    return "the two channels of a plane read different coordinates or frequencies, which is no rotation"


def _agrees(module: nn.Module, forward: Callable[..., Any], inv_freq: Tensor, order: PlaneOrder, n: int) -> bool:
    """Whether the order gives the module's tables at a few other positions, near 0, where float32 angles are right."""
    if set(order.axes) != set(range(n)):
        return False
    positions = [[(3 * row + 2 * c + 1) % 7 for c in range(n)] for row in range(4)]
    tables = _tables(module, forward, inv_freq, _positions(order.layout, positions, inv_freq), len(positions))
    if isinstance(tables, str):
        return False
    at = torch.tensor(positions, dtype=torch.float64, device=inv_freq.device)[:, list(order.axes)]
    angles = at * inv_freq.double()[list(order.index)]
    expected = (order.spread(angles.cos()) * _factor(module), order.spread(angles.sin()) * _factor(module))
    return all(
        a.shape == b.shape and float((a - b).abs().max()) <= _CLOSE for a, b in zip(tables, expected, strict=True)
    )


def _factor(module: nn.Module) -> float:
    return float(getattr(module, "attention_scaling", 1.0))


def _positions(layout: PositionLayout, rows: list[list[int]], inv_freq: Tensor) -> Tensor:
    at = torch.tensor(rows, device=inv_freq.device)
    return at if layout == "rows" else at[None] if layout == "last" else at.movedim(-1, 0)[:, None]


def _tables(
    module: nn.Module, forward: Callable[..., Any], inv_freq: Tensor, positions: Tensor, tokens: int
) -> tuple[Tensor, Tensor] | str:
    """(cos, sin), each (tokens, columns) in float64; or the reason why forward does not give them."""
    x = torch.zeros(1, tokens, 2 * inv_freq.shape[0], dtype=torch.float32, device=inv_freq.device)
    try:
        with torch.no_grad(), defaults(inv_freq.device):
            result = forward(module, x, positions)
    except Exception as error:  # the model's code may raise anything
        return f"calling forward(x, position_ids) raised {type(error).__name__}"
    if not isinstance(result, tuple) or len(result) != 2:
        return "forward(x, position_ids) does not give cos and sin"
    if not all(isinstance(t, Tensor) and t.ndim > 1 for t in result):
        return "forward(x, position_ids) does not give cos and sin"
    cos, sin = (t.detach().double().flatten(0, -2) for t in result)
    if not cos.shape[0] == sin.shape[0] == tokens:
        return "it takes these positions for those of more tokens"
    return cos, sin
