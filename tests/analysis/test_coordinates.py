"""Coordinates: planes, wavelengths and turns of several axes."""

from __future__ import annotations

import math

import pytest

from rotary import RotaryEmbedding
from rotary.analysis import Coordinates


def test_planes_wavelengths_and_turns():
    rope = RotaryEmbedding.axial(8, 4, base=100)
    made = Coordinates("two", rope.axes or (), tuple(rope.inv_freq.tolist()), (30, 7))
    assert made.planes(0) == [0, 1, 2, 3] and made.planes(1) == [4, 5]
    assert made.wavelengths(0) == pytest.approx([2 * math.pi * 100 ** (j / 4) for j in range(4)], rel=1e-6)
    assert made.turns(0) == pytest.approx(30 / (2 * math.pi), rel=1e-6)
    # 6.28, 19.9, 62.8, 199 on 30; 6.28 and 62.8 on 7
    assert (made.whole(0), made.whole(1), made.still) == (2, 1, 0)


def test_planes_that_stand_still_are_counted_apart():
    made = Coordinates("still", (0, 0, 1), (0.0, 1.0, 0.5), (10, 10))
    assert made.planes(0) == [1] and made.still == 1 and made.turns(0) == 0.0
