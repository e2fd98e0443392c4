"""The picture of axes: what it draws is what planes turn by."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rotary.analysis import Coordinates, draw_coordinates
from rotary.analysis.gratings import _angle, _image, _of_image, _spread

MADE = Coordinates("made", (0, 0, 1, 1, 2, 2), (1.0, 0.1, 1.0, 0.1, 0.5, 0.05), (4, 16, 32))


def test_rows_and_columns_are_the_last_two_coordinates_but_of_four():
    assert _of_image(MADE) == (1, 2)
    assert _of_image(Coordinates("two", (0, 1), (1.0, 1.0), (4, 4))) == (0, 1)
    assert _of_image(Coordinates("four", (0, 1, 2, 3), (1.0,) * 4, (4,) * 4)) == (1, 2)


def test_a_grating_is_the_angle_of_a_plane():
    rows, columns = _image(MADE)
    assert (len(rows), len(columns)) == (16, 32)
    assert torch.equal(_angle(MADE, 2, 1, rows, columns)[:, 0], rows * 1.0)
    assert torch.equal(_angle(MADE, 4, 2, rows, columns)[0], columns * 0.5)
    assert float(_angle(MADE, 0, 0, rows, columns)) == 0.0


def test_three_planes_of_different_speed_are_shown():
    inv_freq = tuple(2 * math.pi / wave for wave in (2.0, 4.0, 5.0, 9.0, 16.0, 40.0, 900.0))
    many = Coordinates("many", (0,) * 7, inv_freq, (32,))
    assert _spread(many, many.planes(0)) == [1, 3, 5]
    assert len(_spread(many, [2])) == 3


def test_a_file_that_matplotlib_does_not_write(tmp_path: Path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="cannot draw into"):
        draw_coordinates(tmp_path / "axes.txt", [MADE])


def test_what_has_no_picture(tmp_path: Path):
    one = Coordinates("one", (0, 0), (1.0, 0.1), (16,))
    with pytest.raises(ValueError, match=r"layers\[1\] has one coordinate"):
        draw_coordinates(tmp_path / "axes.svg", [MADE, one])
    still = Coordinates("still", (0, 0, 1, 1), (1.0, 0.1, 0.0, 0.0), (16, 32))
    with pytest.raises(ValueError, match=r"layers\[0\] has no plane that turns by coordinate 1"):
        draw_coordinates(tmp_path / "axes.svg", [still])
    assert not list(tmp_path.iterdir())


def test_planes_that_turn_backwards_and_a_time_that_stands_still(tmp_path: Path):
    pytest.importorskip("matplotlib")
    own = Coordinates("video", (0, 0, 1, 1, 2, 2), (0.0, 0.0, -1.0, 0.1, 0.5, -0.05), (4, 16, 32))
    draw_coordinates(tmp_path / "axes.svg", [own])
    assert (tmp_path / "axes.svg").read_text().count("<image") >= 7
