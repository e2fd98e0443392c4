"""Coordinates: planes, wavelengths and turns of several axes."""

from __future__ import annotations

import math

import pytest

from rotary import RotaryEmbedding, config
from rotary.analysis import Coordinates, coordinates_text


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


def test_planes_that_turn_backwards_have_the_wavelengths_of_those_that_turn_forwards():
    forwards = Coordinates("two", (0, 0, 1, 1), (1.0, 0.1, 1.0, 0.1), (30, 7))
    backwards = Coordinates("two", (0, 0, 1, 1), (-1.0, -0.1, 1.0, -0.1), (30, 7))
    for c in (0, 1):
        assert backwards.wavelengths(c) == forwards.wavelengths(c) and backwards.whole(c) == forwards.whole(c)
    arguments = config.read("flux.1-dev")
    assert coordinates_text(arguments, backwards) == coordinates_text(arguments, forwards)


def test_a_coordinate_without_a_plane_that_turns_is_shown():
    own = Coordinates("still", (0, 0, 1, 1), (1.0, 0.1, 0.0, 0.0), (16, 32))
    text = coordinates_text(config.read("flux.1-dev"), own)
    assert "coordinate 1        no plane that turns, on 32" in text and text.count("at rest") == 2


@pytest.mark.parametrize(
    ("inv_freq", "grid", "reason"),
    [
        ((math.nan, 0.1), (16.0,), "inv_freq must be finite"),
        ((math.inf, 0.1), (16.0,), "inv_freq must be finite"),
        ((1.0, 0.1), (16.0, 32.0), "one size for each of the 1 coordinates that the planes read, got 2"),
        ((1.0, 0.1), (), "one size for each of the 1 coordinates that the planes read, got 0"),
    ],
)
def test_what_is_no_set_of_planes(inv_freq: tuple[float, ...], grid: tuple[float, ...], reason: str):
    with pytest.raises(ValueError, match=reason):
        Coordinates("wrong", (0, 0), inv_freq, grid)


@pytest.mark.parametrize("width", [40, 72, 80, 110, 300])
def test_lines_fit_the_width(width: int):
    arguments = config.read("flux.1-dev")
    module = RotaryEmbedding.axial(16, 56, 56)
    own = Coordinates("n" * 200, module.axes or (), tuple(module.inv_freq.tolist()), (64.0, 64.0, 64.0))
    lines = coordinates_text(arguments, own, all_planes=True, width=width).splitlines()
    assert max(map(len, lines)) <= max(72, min(width, 110)) and "n...n" in lines[0]
