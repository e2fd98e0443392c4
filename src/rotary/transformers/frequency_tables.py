"""FrequencyTables: exact cos and sin of a rotary module's frequencies, by a RotaryEmbedding; and the same tables in a traced program.

Outside of tracing the frequencies are packed once for the kernels, and compared at each call with those that the module has now. A program
that is traced (torch.compile, torch.export, fake tensors, vmap, ...) cannot compare values: there tables are computed from the module's
inv_freq itself, in plain torch operations, so that the program follows the buffer as the model's own code does. Float32 frequencies give
the same bits either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .._angles import eager, exact
from .._angles.integers import as_int64
from .._angles.turns import turns_per_token
from .._constants import Constants
from .._types import CosSin
from ..embedding import RotaryEmbedding
from .coordinates import PlaneOrder, PositionLayout, position_layouts


class Reading(NamedTuple):
    """How the forward of a rotary module reads its arguments x and position_ids.

    orders: for each layout and number of coordinates, which of them each plane reads. one_axis: whether it takes positions (batch, seq) of
    one coordinate. follows_x: whether its tables have x's dtype; otherwise they are float32.
    powers: what turns_per_token() multiplies by, made before a program is traced.
    """

    orders: Mapping[tuple[PositionLayout, int], PlaneOrder]
    one_axis: bool
    follows_x: bool
    powers: Constants

    def takes(self, position_ids: Tensor) -> bool:
        """Whether it is known how positions of this shape and dtype are read."""
        if position_ids.is_floating_point() or position_ids.is_complex() or position_ids.dtype == torch.bool:
            return False
        return self.order(position_ids) is not None or (self.one_axis and position_ids.ndim <= 2)

    def order(self, position_ids: Tensor) -> PlaneOrder | None:
        """The plane order for positions of this shape; None for those of one coordinate."""
        if not self.orders:
            return None
        orders = (self.orders.get((layout, int(n))) for layout, n in position_layouts(position_ids))
        return next((order for order in orders if order is not None), None)

    def traced(self, inv_freq: Tensor, factor: float, position_ids: Tensor) -> CosSin:
        """(cos, sin) float32 at full width of frequencies (planes,), in plain torch operations that read no value.

        Of float64 frequencies, whose product with a position float64 does not hold exactly: within 3.1e-8 + |angle| 2^-52.
        """
        order, device, inv_freq = self.order(position_ids), inv_freq.device, inv_freq.detach()
        positions = as_int64(position_ids, traced=True)
        axes = None
        if order is not None:
            inv_freq = inv_freq[Constants(order.index, torch.int64).on(device, traced=True)]
            axes = Constants(order.axes, torch.int64).on(device, traced=True)
            positions = order.last(positions)
        if inv_freq.dtype == torch.float64:
            along = positions[..., None] if axes is None else exact.read_along(positions, axes)
            tables = eager.real_cos_sin(along.double(), inv_freq, torch.float32, lambda _: factor, traced=True)
        else:
            high, low = turns_per_token(inv_freq, traced=True, powers=self.powers)
            tables = exact.cos_sin(positions, high, low, torch.float32, axes=axes, factor=factor, traced=True)
        return _spread(tables, order)


class FrequencyTables:
    """Exact tables of the frequencies (planes,) that a rotary module had at one time, times its attention factor."""

    def __init__(self, inv_freq: Tensor, factor: float) -> None:
        self.inv_freq: Tensor = inv_freq.detach().clone()
        self.factor: float = factor
        self._ropes: dict[PlaneOrder | None, RotaryEmbedding] = {}

    def are_of(self, inv_freq: Tensor, factor: float) -> bool:
        """Whether they are the tables of these frequencies. It waits for the device on a GPU."""
        own = self.inv_freq
        alike = self.factor == factor and own.dtype == inv_freq.dtype and own.device == inv_freq.device
        return alike and torch.equal(own, inv_freq)

    def at(self, position_ids: Tensor, order: PlaneOrder | None) -> CosSin:
        """(cos, sin) float32 at full width."""
        if order not in self._ropes:
            inv_freq = self.inv_freq if order is None else self.inv_freq[list(order.index)]
            axes = None if order is None else order.axes
            self._ropes[order] = RotaryEmbedding.from_inv_freq(inv_freq, axes=axes, attention_factor=self.factor)
        rope = self._ropes[order]
        return _spread(rope.cos_sin(position_ids if order is None else order.last(position_ids)), order)


def _spread(tables: CosSin, order: PlaneOrder | None) -> CosSin:
    """Tables as the module lays them out: one half after the other, or every plane twice in a row."""
    if order is not None:
        return order.spread(tables[0]), order.spread(tables[1])
    cos, sin = tables
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
