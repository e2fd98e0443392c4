"""Pictures: what is drawn is what was diagnosed, in every format, for each shipped config."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from rotary.diagnosis import Diagnosis
from rotary.plots import COLOURS, PICTURES, draw
from rotary.scaling import Linear, YaRN

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

OWN = Diagnosis("yarn", 64, 1e4, (YaRN(4.0, 1024),), 1024, 4096)
OTHER = Diagnosis("linear", 64, 1e4, (Linear(4.0),), 1024, 4096)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_each_format(suffix: str, tmp_path: Path):
    draw(tmp_path / f"it.{suffix}", [OWN, OTHER])
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


def test_error_shows_float32_angles_losing_and_ours_not():
    axes = Figure().subplots()
    PICTURES["error"](axes, [OWN])
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert max(lines["rotary"]) < 1e-7 and max(lines["float32 angles, as is usual"]) > 1e-2


def test_colours_differ_in_print_too():
    """Okabe and Ito's palette, told apart by the colour-blind; in grey the dashes tell curves apart."""
    assert len(set(COLOURS)) == len(COLOURS) >= 6


def test_without_matplotlib_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rotary\[plot\]'"):
        draw(tmp_path / "it.png", [OWN])
