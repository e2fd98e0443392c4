"""Linear, NTK, dynamic, mixed: one formula for the whole spectrum."""

from __future__ import annotations

import mpmath
import pytest
import torch

from rotary import RotaryEmbedding
from rotary.scaling import NTK, DynamicNTK, Linear, NTKMixed
from support import formulas


def near(rope: RotaryEmbedding, exact: formulas.Planes) -> None:
    assert max(formulas.ulps(a, b) for a, b in zip(rope.inv_freq.tolist(), exact, strict=True)) <= 1


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.7, 16.0])
def test_linear_is_position_interpolation(factor: float):
    near(RotaryEmbedding(128, scaling=Linear(factor)), formulas.linear(formulas.progression(128, 1e4), factor))
    assert torch.equal(
        RotaryEmbedding(128, scaling=Linear(2.0)).cos_sin(99)[0],
        RotaryEmbedding(128, interpolation_factor=2.0).cos_sin(99)[0],
    )


def test_position_interpolation_bound():
    """Chen et al. 2023, section 3.2: the bound of extrapolation is about 600 times that of interpolation, from 32 ln 10000 = 294.73."""
    constant = 32 * mpmath.log(10000)
    assert abs(constant - mpmath.mpf("294.73")) < 0.005
    assert 2 * constant == pytest.approx(600, rel=0.02)


@pytest.mark.parametrize("factor", [1.0, 4.0, 10.5])
@pytest.mark.parametrize("dim", [4, 64, 128])
def test_ntk_keeps_the_first_plane_and_divides_the_last(dim: int, factor: float):
    rope = RotaryEmbedding(dim, scaling=NTK(factor))
    near(rope, formulas.change_of_base(dim, 1e4, factor))
    plain = formulas.progression(dim, 1e4)
    assert rope.inv_freq[0] == 1.0 and formulas.ulps(rope.inv_freq[-1].item(), plain[-1] / factor) <= 1
    rescaled = RotaryEmbedding(dim, base_rescale_factor=factor).inv_freq
    torch.testing.assert_close(rope.inv_freq, rescaled, rtol=2.4e-7, atol=0.0)


def test_dynamic_published_values():
    """factor 10, window 2048, length 16384, dim 128: the last frequency is 1.6265e-6."""
    scheme = DynamicNTK(10.0, 2048)
    exact = formulas.change_of_base(128, 1e4, formulas.dynamic_factor(10.0, 16384, 2048))
    inv_freq, factor = RotaryEmbedding(128, scaling=scheme)._tables.spectrum.frequencies(torch.device("cpu"), 16384)
    assert factor == 1.0 and inv_freq[-1].item() == pytest.approx(1.6265e-06, rel=3e-5)
    assert max(formulas.ulps(a, b) for a, b in zip(inv_freq.tolist(), exact, strict=True)) <= 1


def test_dynamic_up_to_its_window_is_plain():
    rope, plain = RotaryEmbedding(64, scaling=DynamicNTK(4.0, 128)), RotaryEmbedding(64)
    assert torch.equal(rope.inv_freq, plain.inv_freq) and rope._tables.spectrum.window == 128
    for length in (None, 1, 128, torch.tensor([5, 128, 7])):
        assert torch.equal(rope.cos_sin(100, length=length)[0].reshape(-1, 100, 32)[0], plain.cos_sin(100)[0])
    with pytest.raises(ValueError, match=r"position 128 lies beyond the trained window of 128.*length="):
        rope.cos_sin(129)


@pytest.mark.parametrize("angles", ["exact", "float32"])
def test_dynamic_with_factor_1_is_the_scaling_by_length(angles: str):
    cos = RotaryEmbedding(64, scaling=DynamicNTK(1.0, 128), angles=angles).cos_sin(512, length=512)[0]
    torch.testing.assert_close(
        cos, RotaryEmbedding(64, scaling=NTK(4.0), angles=angles).cos_sin(512)[0], atol=2e-4, rtol=0.0
    )


def test_a_row_is_the_same_alone_in_a_batch_and_as_an_int():
    rope = RotaryEmbedding(64, scaling=DynamicNTK(3.3, 100))
    lengths = [1, 100, 101, 333, 5000, 10**6]
    batch = rope.cos_sin(50, length=torch.tensor(lengths))[0]
    for i, length in enumerate(lengths):
        assert torch.equal(batch[i], rope.cos_sin(50, length=length)[0])
        assert torch.equal(batch[i], rope.cos_sin(50, length=torch.tensor(length))[0])
        assert torch.equal(batch[i], rope.cos_sin(50, length=torch.tensor([length]))[0].reshape(50, 32))


def test_ntk_mixed():
    k, dim = 12.0, 64
    a = mpmath.log(k) / mpmath.mpf(dim // 2) ** 0.75
    exact = [t * mpmath.exp(-a * mpmath.mpf(i + 1) ** 0.75) for i, t in enumerate(formulas.progression(dim, 1e4))]
    rope = RotaryEmbedding(dim, scaling=NTKMixed(k))
    near(rope, exact)
    assert formulas.ulps(rope.inv_freq[-1].item(), formulas.progression(dim, 1e4)[-1] / 12) <= 1


def test_refusals():
    for scheme in (NTK(2.0), DynamicNTK(2.0, 64)):
        with pytest.raises(ValueError, match="needs dim >= 4, got 2"):
            RotaryEmbedding(2, scaling=scheme)
    for value in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"factor must be a finite number > 0, got {value}"):
            Linear(value)
    with pytest.raises(TypeError, match="str '2'"):
        Linear("2")
    with pytest.warns(UserWarning, match=r"0\.5"):
        Linear(0.5)
    with pytest.raises(ValueError, match="exponent"):
        NTKMixed(2.0, exponent=-1.0)
