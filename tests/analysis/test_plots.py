"""Pictures show the values of the diagnosis, in every format, and their colours can be told apart."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch

from rotary.analysis import Diagnosis, draw
from rotary.analysis.plots import COLOURS, DASHES, PICTURES
from rotary.scaling import Linear, YaRN

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

OWN = Diagnosis("yarn", 64, 1e4, (YaRN(4.0, 1024),), 1024, 4096)
OTHER = Diagnosis("linear", 64, 1e4, (Linear(4.0),), 1024, 4096)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_each_format(suffix: str, tmp_path: Path):
    draw(tmp_path / f"it.{suffix}", [[OWN, OTHER]])
    assert (tmp_path / f"it.{suffix}").stat().st_size > 10_000


def test_spectrum_draws_the_wavelengths():
    axes = Figure().subplots()
    PICTURES["spectrum"](axes, [OWN, OTHER])
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["yarn"]) == [plane.wavelength for plane in OWN.planes]
    assert list(lines["linear"]) == [plane.wavelength for plane in OTHER.planes]
    assert axes.get_yscale() == "log" and "[token]" in axes.get_ylabel()


def test_decay_draws_the_mean_of_cosines():
    axes = Figure().subplots()
    PICTURES["decay"](axes, [Diagnosis("plain", 64, 1e4, (), 1024, 1024)])
    line = next(line for line in axes.lines if line.get_label() == "plain")
    distance, score = line.get_xdata()[-1], line.get_ydata()[0]
    exact = torch.tensor([math.cos(10000 ** (-i / 32)) for i in range(32)]).mean()
    assert distance == pytest.approx(1024) and score == pytest.approx(float(exact), abs=1e-3)
    assert axes.get_xlabel() == "distance [token]"


def test_error_grows_with_float32_angles_and_not_with_exact_ones():
    axes = Figure().subplots()
    PICTURES["error"](axes, [OWN])
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert max(lines["rotary"]) < 1e-7 and max(lines["float32 angles, as is usual"]) > 1e-2


def perceived(colour: str, matrix: list[list[float]]) -> torch.Tensor:
    """Linear sRGB of a colour as a colour-blind eye sees it, by the matrix of its kind."""
    srgb = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=torch.float64)
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return torch.tensor(matrix, dtype=torch.float64) @ linear


def test_the_first_colours_differ_for_the_colour_blind_and_the_dashes_for_print_in_grey():
    """Colours that an eye confuses are close together; matrices of Machado et al. 2009, table 1, severity 1."""
    blind = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    for matrix in blind.values():
        for one, other in itertools.combinations(COLOURS, 2):
            assert (perceived(one, matrix) - perceived(other, matrix)).norm() > 0.08, (one, other)
    confused = perceived("#FF0000", blind["protan"]) - perceived("#5F5F00", blind["protan"])
    assert confused.norm() < 0.08  # the criterion rejects red and olive
    assert len(set(map(str, DASHES))) == len(DASHES) == len(COLOURS)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rotary\[plot\]'"):
        draw(tmp_path / "it.png", [[OWN]])
