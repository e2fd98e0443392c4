"""NTK-by-parts, YaRN, Llama 3: the published numbers of models that were trained with them."""

from __future__ import annotations

import math

import pytest
import torch

from rotary import RotaryEmbedding
from rotary.scaling import Llama3, NTKByParts, YaRN
from support import formulas

LLAMA31 = Llama3(8.0, original_max_position_embeddings=8192)


def near(rope: RotaryEmbedding, exact: formulas.Planes) -> None:
    assert max(formulas.ulps(a, b) for a, b in zip(rope.inv_freq.tolist(), exact, strict=True)) <= 1


def test_llama31_frequencies():
    """Llama 3.1: planes up to 28 as trained, 29 the first scaled, from 35 on divided by 8."""
    rope = RotaryEmbedding(128, base=500000, scaling=LLAMA31)
    near(rope, formulas.by_turns(formulas.progression(128, 500000), 8, 8192, 1, 4))
    published = [3.211446e-3, 2.166571e-3, 1.371894e-3, 8.567514e-4, 5.248462e-4, 3.126938e-4, 1.785078e-4]
    published += [9.556212e-5, 7.784655e-5]
    torch.testing.assert_close(rope.inv_freq[28:37], torch.tensor(published), rtol=5e-7, atol=0.0)
    ratio = RotaryEmbedding(128, base=500000).inv_freq / rope.inv_freq
    assert (ratio[:29] == 1).all() and (ratio[29:35] > 1).all() and (ratio[29:35] < 8).all() and (ratio[35:] == 8).all()


@pytest.mark.parametrize(
    ("scheme", "published"),
    [(YaRN(10.0, 2048), {17: 8.3479e-02, 41: 2.7384e-04}), (Llama3(10.0, 2048), {31: 1.0730e-02, 40: 3.4539e-04})],
)
def test_the_values_in_the_tests_of_transformers(scheme: YaRN | Llama3, published: dict[int, float]):
    """tests/utils/test_modeling_rope_utils.py: factor 10, window 2048, dim 128, base 10000."""
    inv_freq = RotaryEmbedding(128, scaling=scheme).inv_freq.tolist()
    assert {plane: inv_freq[plane] for plane in published} == pytest.approx(published, rel=3e-5)


def test_llama3_is_by_parts_between_1_and_4():
    by_parts = NTKByParts(8.0, 8192, beta_fast=4, beta_slow=1)
    for dim, base in ((128, 500000.0), (64, 10000.0), (96, 1e6)):
        plain = torch.tensor([float(t) for t in formulas.progression(dim, base)], dtype=torch.float64)
        llama3, _ = LLAMA31(plain, base=base, dim=dim)
        parts, _ = by_parts(plain, base=base, dim=dim)
        assert (llama3 / parts - 1).abs().max() <= 4e-16


@pytest.mark.parametrize("scheme", [Llama3(8.0, 8192, 1.0, 1.0), NTKByParts(8.0, 8192, 1.0, 1.0)])
def test_equal_bounds_are_a_step(scheme: Llama3 | NTKByParts):
    """Llama 4 has low_freq_factor = high_freq_factor."""
    plain, scaled = RotaryEmbedding(128, base=500000), RotaryEmbedding(128, base=500000, scaling=scheme)
    kept = plain.inv_freq.double() * 8192 / (2 * torch.pi) >= 1
    assert torch.equal(scaled.inv_freq, torch.where(kept, plain.inv_freq, plain.inv_freq / 8))
    exactly = torch.tensor([2 * torch.pi / 8192], dtype=torch.float64)
    assert scheme(exactly, base=500000.0, dim=2)[0].isfinite().all()


@pytest.mark.parametrize(
    ("dim", "base", "window", "options", "low", "high"),
    [
        (128, 10000.0, 4096, {"factor": 16.0}, 20, 46),
        (64, 10000.0, 4096, {"factor": 40.0}, 10, 23),
        (64, 150000.0, 4096, {"factor": 32.0, "truncate": False}, 8.093, 17.398),
    ],
    ids=["llama-2", "deepseek-v3", "gpt-oss"],
)
def test_yarn_partitions(dim: int, base: float, window: int, options: dict, low: float, high: float):
    scheme = YaRN(original_max_position_embeddings=window, **options)
    rope = RotaryEmbedding(dim, base=base, scaling=scheme)
    truncate = options.get("truncate", True)
    near(rope, formulas.by_planes(dim, base, options["factor"], window, truncate=truncate))
    ratio = (RotaryEmbedding(dim, base=base).inv_freq.double() / rope.inv_freq.double()).tolist()
    for i, r in enumerate(ratio):
        expected = 1.0 if i <= low else options["factor"] if i >= high else None
        assert r == pytest.approx(expected, rel=1e-6) if expected else 1.0 < r < options["factor"]
    for turns, plane in ((32, low), (1, high)):
        crossing = float(formulas.crossing(turns, dim, base, window))
        assert crossing == pytest.approx(plane, abs=5e-4) if not truncate else low <= crossing <= high


def test_planes_longer_than_the_window_of_llama2():
    wavelengths = 2 * torch.pi / RotaryEmbedding(128).inv_freq
    assert (wavelengths > 4096).sum() == 18


@pytest.mark.parametrize(("factor", "expected"), [(8.0, 1.2079), (16.0, 1.27726), (1.0, 1.0), (0.5, 1.0)])
def test_attention_factor(factor: float, expected: float, recwarn: pytest.WarningsRecorder):
    rope = RotaryEmbedding(128, scaling=YaRN(factor, 4096))
    assert rope.attention_factor == pytest.approx(expected, abs=5e-5)
    cos, sin = rope.cos_sin(1)
    assert cos.tolist() == [[float(torch.tensor(rope.attention_factor))] * 64] and not sin.any()
    assert len(recwarn) == (factor < 1)


def test_deepseek_v3_applies_its_attention_factor_in_the_softmax():
    """With mscale = mscale_all_dim the attention factor of the tables is 1."""
    assert RotaryEmbedding(64, scaling=YaRN(40.0, 4096, mscale=1.0, mscale_all_dim=1.0)).attention_factor == 1.0
    v2 = RotaryEmbedding(64, scaling=YaRN(40.0, 4096, mscale=0.707, mscale_all_dim=0.707))
    assert v2.attention_factor == 1.0
    overridden = YaRN(40.0, 4096, attention_factor=1.0, mscale=0.5, mscale_all_dim=2.0)
    assert RotaryEmbedding(64, scaling=overridden).attention_factor == 1.0


def test_paper_and_code_differ_by_three():
    """Llama 2 extended 16 times, the ramp in rotations against the ramp in planes."""
    both = [
        RotaryEmbedding(128, scaling=NTKByParts(16.0, 4096, ramp=ramp)).inv_freq.double()
        for ramp in ("rotations", "planes")
    ]
    near(
        RotaryEmbedding(128, scaling=NTKByParts(16.0, 4096)),
        formulas.by_turns(formulas.progression(128, 1e4), 16, 4096, 1, 32),
    )
    ratio = both[1] / both[0]
    assert ratio.argmax() == 38 and ratio.max() == pytest.approx(3.04, abs=0.005)


def test_refusals():
    cases = {
        "factor must be a finite number > 0, got -3.0": lambda: YaRN(-3.0, 4096),
        "factor must be a finite number > 0, got nan": lambda: Llama3(float("nan"), 8192),
        "original_max_position_embeddings must be >= 1, got 0": lambda: NTKByParts(2.0, 0),
        "beta_fast must not be below beta_slow, got 1.0 and 2.0": lambda: YaRN(2.0, 4096, beta_fast=1.0, beta_slow=2.0),
        "high_freq_factor must not be below low_freq_factor": lambda: Llama3(8.0, 8192, 4.0, 1.0),
        "ramp must be one of": lambda: NTKByParts(2.0, 4096, ramp="dims"),
        "attention_factor must be a finite number > 0": lambda: YaRN(2.0, 4096, attention_factor=0.0),
        "base > 1": lambda: RotaryEmbedding(8, base=0.5, scaling=YaRN(2.0, 4096)),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    for call in (
        lambda: YaRN("4", 4096),
        lambda: YaRN(4.0, 4096.5),
        lambda: YaRN(4.0, 4096, truncate=1),
        lambda: YaRN(True, 4096),
    ):
        with pytest.raises(TypeError):
            call()


def test_equal_bounds_and_a_wavelength_of_exactly_the_window_are_finite():
    """transformers computes 0 / 0 for the ramp in this case."""
    window = 64
    frequency = next(f for f in torch.linspace(0.0981, 0.0982, 40_001) if 2 * math.pi / f == window)
    slowed, _ = Llama3(8.0, window, 1.0, 1.0).in_float32(frequency[None], base=1e4, dim=2)
    assert slowed.isfinite().all() and float(slowed) in (float(frequency), float(frequency / 8))


@pytest.mark.parametrize("angles", ["exact", "float32"])
@pytest.mark.parametrize(
    ("base", "scheme", "slowdown", "side"),
    [
        (10.0, YaRN(4.0, 2**21), 4.0, "more than 32"),
        (10.0, NTKByParts(4.0, 2**21, ramp="planes", truncate=False), 4.0, "more than 32"),
        (1e4, YaRN(4.0, 100, beta_fast=64, beta_slow=40), 1.0, "fewer than 40"),
        (1e4, NTKByParts(4.0, 100, beta_fast=64, beta_slow=40, ramp="planes"), 1.0, "fewer than 40"),
    ],
)
def test_a_ramp_with_all_planes_on_one_side_is_reversed_as_in_published_code_with_a_warning(
    base: float, scheme: YaRN | NTKByParts, slowdown: float, side: str, angles: str
):
    """At base 10 and 2^21 tokens plane 63 makes 34,599 turns; at base 10,000 and 100 tokens plane 0 makes 16."""
    with pytest.warns(UserWarning, match=f"all planes make {side} turns in the window"):
        scaled = RotaryEmbedding(128, base=base, scaling=scheme, angles=angles)
    torch.testing.assert_close(scaled.inv_freq * slowdown, RotaryEmbedding(128, base=base).inv_freq, rtol=2e-7, atol=0)


def test_a_reversed_ramp_has_the_bits_of_transformers():
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    transformers = pytest.importorskip("transformers")
    for base, window, fast, slow in ((10.0, 2**21, 32, 1), (1e4, 100, 64, 40)):
        keys = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": window, "rope_theta": base}
        rope_parameters = {**keys, "beta_fast": fast, "beta_slow": slow}
        config = transformers.LlamaConfig(
            head_dim=128, max_position_embeddings=4 * window, rope_parameters=rope_parameters
        )
        with pytest.warns(UserWarning, match="all planes make"):
            rope = RotaryEmbedding(128, base=base, scaling=YaRN(4.0, window, fast, slow), angles="float32")
        assert torch.equal(rope.inv_freq, rope_utils._compute_yarn_parameters(config, "cpu")[0])
