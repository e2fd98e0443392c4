"""The configs of published models that come with the package: each loads, and gives the published values."""

from __future__ import annotations

import math

import pytest

from rotary import RotaryEmbedding, config
from rotary.axes import sections, strided
from rotary.scaling import Linear, Llama3, LongRoPE, YaRN

# dim, base, scheme, attention factor: from the config.json of each model as published.
PUBLISHED = {
    "plain": (128, 1e4, None, 1.0),
    "llama-3.1-8b": (128, 5e5, Llama3(8.0, 8192, 1.0, 4.0), 1.0),
    "qwen2.5-7b-yarn": (128, 1e6, YaRN(4.0, 32768), 1.138629436111989),
    "phi-3-vision-128k": (96, 1e4, LongRoPE, 1.1902380714238083),
    "deepseek-v3": (64, 1e4, YaRN(40, 4096, mscale=1.0, mscale_all_dim=1.0), 1.0),
    "qwen2.5-vl-7b": (128, 1e6, None, 1.0),
    "qwen3-vl-8b": (128, 5e6, None, 1.0),
    "flux.1-dev": (128, None, None, 1.0),
    "dinov3-vitl16": (64, None, None, 1.0),
    "gpt-oss-20b": (64, 1.5e5, YaRN(32.0, 4096, truncate=False), 1.3465735902799727),
}


def test_every_shipped_config_is_published_here():
    assert set(config.shipped()) == {*PUBLISHED, "gemma-3-4b"}


@pytest.mark.filterwarnings("ignore:the config asks for more than a rotation")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str):
    dim, base, scheme, factor = PUBLISHED[name]
    rope = RotaryEmbedding.from_config(config.path(name))
    assert (rope.dim, rope.base) == (dim, base)
    assert rope.attention_factor == pytest.approx(factor, rel=1e-15)
    if isinstance(scheme, type):
        assert isinstance(rope.scaling[0], scheme)
    else:
        assert rope.scaling == (() if scheme is None else (scheme,))


def test_the_two_layer_types_of_gemma3():
    full, sliding = (
        RotaryEmbedding.from_config(config.path("gemma-3-4b"), layer_type=kind)
        for kind in ("full_attention", "sliding_attention")
    )
    assert (full.dim, full.base, full.scaling) == (256, 1e6, (Linear(8.0),))
    assert (sliding.dim, sliding.base, sliding.scaling) == (256, 1e4, ())


# axes of each part of the published configs of images
AXES = {
    ("qwen2.5-vl-7b", None): sections(16, 24, 24),
    ("qwen2.5-vl-7b", "vision_config"): sections(20, 20),
    ("qwen3-vl-8b", None): strided((24, 20, 20)),
    ("qwen3-vl-8b", "vision_config"): sections(18, 18),
    ("flux.1-dev", None): sections(8, 28, 28),
    ("dinov3-vitl16", None): sections(16, 16),
}


@pytest.mark.filterwarnings("ignore:the config asks for more than a rotation")
@pytest.mark.parametrize(("name", "part"), AXES)
def test_axes_of_published_configs(name: str, part: str | None):
    rope = RotaryEmbedding.from_config(name, part=part)
    assert rope.axes == AXES[name, part]
    assert config.read(name, part=part).dim == rope.dim


def test_frequencies_of_flux_and_dinov3_are_float64():
    """Within 3.1e-8 of the formula in real numbers, where float32 frequencies are off by 1e-6 (tests/goldens/axes.json)."""
    flux = config.read("flux.1-dev").inv_freq
    assert flux == tuple(1e4 ** (-2 * j / n) for n in (16, 56, 56) for j in range(n // 2))
    dinov3 = config.read("dinov3-vitl16").inv_freq
    assert dinov3 == pytest.approx([2 * math.pi * 100 ** (-j / 16) for _ in range(2) for j in range(16)], rel=1e-15)


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="no published config is named 'llama-4'; known: .*llama-3.1-8b"):
        config.path("llama-4")
