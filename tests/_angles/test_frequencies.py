"""The spectrum as a value; its numbers are judged in test_turns.py and test_embedding.py."""

from __future__ import annotations

import pickle

import pytest
import torch

from rotary._angles.frequencies import Spectrum
from rotary._angles.xpos import XPos
from rotary.scaling import YaRN

CPU = torch.device("cpu")


class Scaled:
    """A static scheme."""

    window = None

    def __init__(self, by: float, factor: float) -> None:
        self.by, self.factor = by, factor
        self.called: list[object] = []

    def __call__(self, inv_freq, *, base, dim, length=None):
        assert dim == 8
        self.called.append(inv_freq.dtype)
        return inv_freq / self.by, self.factor

    def in_float32(self, inv_freq, *, base, dim, length=None):
        self.called.append("in_float32")
        return inv_freq / self.by, self.factor


def test_schemes_apply_from_left_to_right_and_their_factors_multiply():
    plain = Spectrum(8, 100.0)
    for angles in ("exact", "float32"):
        schemes = Scaled(2.0, 1.5), Scaled(4.0, 3.0)
        chained = Spectrum(8, 100.0, schemes, angles=angles)
        # transformers has no chains: the first scheme takes its arithmetic, the others their formula
        called = ["in_float32", torch.float32] if angles == "float32" else [torch.float64] * 2
        assert [scheme.called for scheme in schemes] == [[kind] for kind in called]
        assert chained.attention_factor == 4.5
        for f, g in zip(chained.inv_freq, plain.inv_freq, strict=True):
            assert f == pytest.approx(g / 8, rel=1e-6)


def test_a_value_that_pickles_small():
    one, other = Spectrum(8, 100.0), Spectrum(8, 100.0)
    assert one == other == pickle.loads(pickle.dumps(one)) and hash(one) == hash(other)
    assert one != Spectrum(8, 100.0, divisor=2.0)
    assert len(pickle.dumps(Spectrum(128, 1e4))) < 8000
    assert one.window is None


def test_rows_of_lengths_leave_static_spectra_alone():
    spectrum = Spectrum(8, 100.0)
    inv_freq, factor = spectrum.frequencies(CPU, torch.tensor([4, 5]))
    assert inv_freq.shape == (4,) and factor == 1.0


def test_frequencies_out_of_range_are_refused():
    with pytest.raises(ValueError, match="finite in float32"):
        Spectrum(128, 1e-300)


def test_float32_products_are_rounded_where_transformers_rounds():
    spectrum = Spectrum(8, 100.0, divisor=3.0, angles="float32")
    positions = torch.tensor([1, 5, 2**24 + 1])
    cos, sin = spectrum.cos_sin(positions, torch.float32)
    angles = positions[:, None].float() * (torch.tensor(spectrum.inv_freq) / 3.0)
    assert torch.equal(cos, angles.cos()) and torch.equal(sin, angles.sin())


def test_the_attention_factor_and_another_amplitude_are_multiplied():
    """YaRN's factor and the powers of xPos on one table: each value is cos times both."""
    factor = 1.25
    spectrum = Spectrum(8, 1e4, (YaRN(4.0, 64, attention_factor=factor),))
    plain = Spectrum(8, 1e4, (YaRN(4.0, 64, attention_factor=1.0),))
    positions = torch.arange(5)
    xpos = XPos(8, 3.0)
    scale = torch.tensor(xpos.zeta, dtype=torch.float64) ** (positions[:, None].double() / 3.0)
    for scaled, bare in zip(
        spectrum.cos_sin(positions, torch.float64, decay=xpos.decay("query")),
        plain.cos_sin(positions, torch.float64),
        strict=True,
    ):
        torch.testing.assert_close(scaled, bare * scale * factor, rtol=1e-14, atol=0)
